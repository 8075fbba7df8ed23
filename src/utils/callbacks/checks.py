"""Whether `load_model` will find in a checkpoint what it needs: asked before the first batch, because
otherwise it is noticed months later."""

import inspect
import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from src.utils.callbacks.resumable_loader import random_state, set_random_state
from src.utils.errors import UserError, one_line
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
ONE_TRAINING = (
    "a run holds one training, else it could not be resumed: start one run a fold "
    "(fold=0, and -m fold=0,1,2 for all of them), and fine-tune in a second run with "
    "warm_start=RUN, which begins with the weights of the first"
)


class CheckLoading(pl.Callback):
    """The model goes once through a checkpoint and back; what would not come back is refused by name.

    A large model isn't built again: its hyperparameters are compared with what its class asks for.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.run.is_rank_zero and self.run.resume_from is None:
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


class CheckSchedule(pl.Callback):
    """Refuses to go on with more epochs where the learning rate depends on when training ends.

    The schedule as it is planned now is stepped as often as the kept one was: a constant rate, or steps
    at given epochs, come to the same rate; a cosine or a cycle that ends with the training does not.
    """

    def on_load_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.kept = checkpoint["lr_schedulers"]

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Lightning restores the kept schedule after this, whatever has been stepped here."""
        for config, kept in zip(trainer.lr_scheduler_configs, self.kept, strict=False):
            if not config.reduce_on_plateau and "last_epoch" in kept and "_last_lr" in kept:
                _compare(config.scheduler, kept)


def _compare(scheduler: Any, kept: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no optimizer has stepped
        for _ in range(kept["last_epoch"]):
            scheduler.step()
    now, before = (torch.tensor(rates) for rates in (scheduler.get_last_lr(), kept["_last_lr"]))
    if not torch.allclose(now, before, rtol=1e-4, atol=0):
        raise UserError(
            f"more epochs change the learning rate's schedule ({type(scheduler).__name__}) from its "
            f"beginning: after {kept['last_epoch']} steps it was {before[0]:.3g} and would have been "
            f"{now[0]:.3g}; warm_start=RUN starts a new run that begins with the weights"
        )


class SingleFit(pl.Callback):
    """Refuses a second `fit`: checkpoints, metrics and steps of two would be mixed."""

    def __init__(self) -> None:
        self.begun = False

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.begun:
            raise UserError(ONE_TRAINING)
        self.begun = True


# MERGED callbacks/schedule: Whether a training can have more epochs than its learning rate was planned for.

# MERGED callbacks/fit: What is done once, when a model begins to train.
