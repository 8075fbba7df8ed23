"""Whether `load_model` will find in a checkpoint what it needs: asked before the first batch, because
otherwise it is noticed months later."""

import inspect
import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from src.utils.errors import UserError, one_line
from src.utils.random_states import random_state, set_random_state
from src.utils.run import Run

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn.parameter import is_lazy

SMALL = 2_000_000  # numbers in a model that is built once more: 0.03 s
ADVICE: dict[type, str] = {
    np.generic: "give a plain number, as value.item()",
    Path: "give a plain text, as str(path)",
    nn.Module: "build it in __init__ from plain values",
}


class CheckLoading(pl.Callback):
    """The model goes once through a checkpoint and back; what would not come back is refused by name.

    A large model isn't built again: its hyperparameters are compared with what its class asks for.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.run.leads and self.run.resume_from is None:
            checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
            weights = checkpoint.pop("state_dict")
            _check_values(checkpoint)
            _check_class(type(module), checkpoint)
            if not any(is_lazy(one) for one in weights.values()):
                _check_weights(type(module), checkpoint | {"state_dict": weights})


def _check_values(checkpoint: Mapping[str, Any]) -> None:
    unreadable = next(_unreadable(checkpoint), None)
    if unreadable:
        name, value = unreadable
        advice = next((one for kind, one in ADVICE.items() if isinstance(value, kind)), None)
        raise UserError(
            f"{_told(name)} is a {type(value).__module__}.{type(value).__qualname__}, and could not be "
            f"loaded from a checkpoint: {advice or 'only plain values and tensors can'}"
        )


def _unreadable(value: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """What does not come back, each with its names from outside to inside."""
    if _comes_back(value):
        return
    inside: dict[Any, Any] = dict(enumerate(value)) if isinstance(value, list | tuple) else {}
    inside |= value if isinstance(value, dict) else {}
    found = [one for key, part in inside.items() for one in _unreadable(part, *path, str(key))]
    yield from found or [(path, value)]


def _comes_back(value: Any) -> bool:
    try:
        torch.load(_written(value), weights_only=True)
    except Exception:  # whatever it is: it would be the same months later
        return False
    return True


def _written(value: Any) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return file


def _told(path: tuple[str, ...]) -> str:
    name = ".".join(path[1:])
    match path[0]:
        case "hyper_parameters":
            return f"the hyperparameter {name}" if name else "what save_hyperparameters keeps"
        case "datamodule_hyper_parameters":
            return f"the hyperparameter {name} of the DataModule"
    return f"{'.'.join(path)} of the checkpoint"


def _check_class(kind: type[pl.LightningModule], checkpoint: Mapping[str, Any]) -> None:
    if "<locals>" in kind.__qualname__:
        raise UserError(
            f"the class {kind.__qualname__} is defined within a function, where load_model would not find "
            "it: define it at the top of its file"
        )
    missing = [name for name in _needed(kind) if name not in _given(checkpoint)]
    if missing:
        raise UserError(
            f"load_model could not build {kind.__qualname__}: its __init__ needs {', '.join(missing)}, "
            "which its hyperparameters lack: call self.save_hyperparameters() in __init__"
        )


def _needed(kind: type[pl.LightningModule]) -> list[str]:
    """The arguments without which the class can't be built."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(kind).parameters.values()
    return [one.name for one in parameters if one.default is one.empty and one.kind in named]


def _given(checkpoint: Mapping[str, Any]) -> set[str]:
    """What `load_from_checkpoint` passes: each hyperparameter, or all as one argument of that name."""
    return {*checkpoint.get("hyper_parameters", {}), checkpoint.get("hparams_name", "")}


def _check_weights(kind: type[pl.LightningModule], checkpoint: Mapping[str, Any]) -> None:
    weights = checkpoint["state_dict"].values()
    if sum(one.numel() for one in weights if isinstance(one, torch.Tensor)) > SMALL:
        return
    try:
        with _unnoticed():
            kind.load_from_checkpoint(_written(checkpoint), map_location="cpu", weights_only=True)
    except Exception as error:  # as above
        raise UserError(
            f"load_model could not rebuild {kind.__qualname__} from its hyperparameters: "
            f"{one_line(error)[:300]}"
        ) from error


@contextmanager
def _unnoticed() -> Iterator[None]:
    """Without a trace in random states or on the terminal."""
    state = random_state()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        set_random_state(state)
