"""Checks before the first batch, for what would otherwise fail when a run is loaded or resumed.

| class           | what it refuses                                                              |
|-----------------|------------------------------------------------------------------------------|
| `SingleFit`     | a second `fit` in the same run                                               |
| `CheckLoading`  | a model that `load_model` could not load from its checkpoint                 |
| `CheckModes`    | a callback or schedule that watches the monitored metric in the other mode   |
| `CheckEnd`      | a schedule that needs the number of steps, where only max_time is set        |
| `CheckSchedule` | more epochs, where the learning rate depends on the number of epochs         |
"""

import inspect
import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from src.utils.callbacks.resumable_loader import random_state, set_random_state
from src.utils.config.sweep_settings import MODES, Mode
from src.utils.errors import UserError, one_line
from src.utils.run import Run

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn.parameter import is_lazy

ONE_FIT = (
    "a run holds one training, otherwise it could not be resumed: make each of several a part of it, "
    'tracked_trainer(run.part("fold0"), cfg), and fine-tune in a second run with warm_start=RUN, which '
    "begins with the weights of the first"
)
MAX_PARAMETERS = 2_000_000  # of a model that CheckLoading rebuilds; it takes 0.03 s
ADVICE: dict[type, str] = {  # instead of a hyperparameter of that type
    np.generic: "give a plain number, as value.item()",
    Path: "give a plain text, as str(path)",
    nn.Module: "build it in __init__ from plain values",
}


class SingleFit(pl.Callback):
    """Refuses a second `fit`: the checkpoints, metrics and steps of the two would be mixed.

    Raises:
        UserError: `fit` is called a second time.
    """

    def __init__(self) -> None:
        self.has_started = False

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.has_started:
            raise UserError(ONE_FIT)
        self.has_started = True


class CheckLoading(pl.Callback):
    """Saves a checkpoint to memory and loads it, so that an error appears now and not months later.

    A large model is not rebuilt. Its hyperparameters are compared with the arguments of its `__init__`.

    Raises:
        UserError: a value can't be loaded; `__init__` needs an argument that is no hyperparameter; or
            the class can't be found, or fails.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.run.resume_from is not None:
            return
        # In all processes of a distributed training: each adds its state
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        if self.run.is_rank_zero:
            weights = checkpoint.pop("state_dict")
            _check_values(checkpoint)
            _check_class(type(module), checkpoint)
            if not any(is_lazy(tensor) for tensor in weights.values()):
                _check_rebuilding(type(module), checkpoint | {"state_dict": weights})


def _check_values(checkpoint: Mapping[str, Any]) -> None:
    unloadable = next(_unloadable_values(checkpoint), None)
    if unloadable:
        path, value = unloadable
        advice = next((text for kind, text in ADVICE.items() if isinstance(value, kind)), None)
        raise UserError(
            f"{_describe(path)} is a {type(value).__module__}.{type(value).__qualname__}, and could not be "
            f"loaded from a checkpoint: {advice or 'only plain values and tensors can'}"
        )


def _unloadable_values(value: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The innermost values that can't be loaded, each with its path of keys."""
    if _is_loadable(value):
        return
    parts: dict[Any, Any] = dict(enumerate(value)) if isinstance(value, list | tuple) else {}
    parts |= value if isinstance(value, dict) else {}
    found = [
        inner for key, part in parts.items() for inner in _unloadable_values(part, *path, str(key))
    ]
    yield from found or [(path, value)]


def _is_loadable(value: Any) -> bool:
    try:
        torch.load(_saved(value), weights_only=True)
    except Exception:  # whatever it is, it would be the same months later
        return False
    return True


def _saved(value: Any) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return file


def _describe(path: tuple[str, ...]) -> str:
    name = ".".join(path[1:])
    match path[0]:
        case "hyper_parameters":
            return f"the hyperparameter {name}" if name else "what save_hyperparameters stores"
        case "datamodule_hyper_parameters":
            return f"the hyperparameter {name} of the DataModule"
    return f"{'.'.join(path)} of the checkpoint"


def _check_class(kind: type[pl.LightningModule], checkpoint: Mapping[str, Any]) -> None:
    if "<locals>" in kind.__qualname__:
        raise UserError(
            f"the class {kind.__qualname__} is defined within a function, where load_model would not find "
            "it: define it at the top level of its file"
        )
    passed = _passed_arguments(checkpoint)
    missing = [name for name in _required_arguments(kind) if name not in passed]
    if missing:
        raise UserError(
            f"load_model could not build {kind.__qualname__}: its __init__ needs {', '.join(missing)}, "
            "which its hyperparameters lack: call self.save_hyperparameters() in __init__"
        )


def _required_arguments(kind: type[pl.LightningModule]) -> list[str]:
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    arguments = inspect.signature(kind).parameters.values()
    return [each.name for each in arguments if each.default is each.empty and each.kind in named]


def _passed_arguments(checkpoint: Mapping[str, Any]) -> set[str]:
    """As `load_from_checkpoint` does it: each hyperparameter, or all of them as one argument."""
    return {*checkpoint.get("hyper_parameters", {}), checkpoint.get("hparams_name", "")}


def _check_rebuilding(kind: type[pl.LightningModule], checkpoint: Mapping[str, Any]) -> None:
    weights = checkpoint["state_dict"].values()
    if sum(each.numel() for each in weights if isinstance(each, torch.Tensor)) > MAX_PARAMETERS:
        return
    try:
        with _no_side_effects():
            kind.load_from_checkpoint(_saved(checkpoint), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever it is, as above
        raise UserError(
            f"load_model could not rebuild {kind.__qualname__} from its hyperparameters: "
            f"{one_line(error)[:300]}"
        ) from error


@contextmanager
def _no_side_effects() -> Iterator[None]:
    """Restores the random states, and hides warnings."""
    state = random_state()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        set_random_state(state)


class CheckModes(pl.Callback):
    """Compares the mode of the monitored metric with those of the callbacks and schedules that watch it.

    EarlyStopping and ReduceLROnPlateau have mode="min" where none is given: of an accuracy they would end the
    training when it gets better.

    Raises:
        UserError: one of them has the other mode.
    """

    def __init__(self, monitor: str, mode: Mode) -> None:
        self.monitor, self.mode = monitor, mode

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        for name, monitor, mode in _watchers(trainer):
            if monitor == self.monitor and mode in MODES.values() and mode != self.mode:
                raise UserError(
                    f"{name} watches {monitor} with mode={mode}, and the run with mode={self.mode}: "
                    f'give {name} mode="{self.mode}"'
                )


def _watchers(trainer: pl.Trainer) -> Iterator[tuple[str, str | None, str | None]]:
    """What decides by a metric: its class, the metric and the mode."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # it is there
        mode = getattr(callback, "mode", None)
        yield type(callback).__name__, getattr(callback, "monitor", None), mode
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau:
            mode = getattr(config.scheduler, "mode", None)
            yield type(config.scheduler).__name__, config.monitor, mode


class CheckEnd(pl.Callback):
    """Explains why the number of steps is infinite, to a schedule that ends with the training.

    Raises:
        UserError: instead of the OverflowError of `int(trainer.estimated_stepping_batches)`.
    """

    def on_exception(
        self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException
    ) -> None:
        if isinstance(exception, OverflowError) and trainer.max_epochs == trainer.max_steps == -1:
            raise UserError(
                "the schedule of the learning rate needs a number of steps, and max_time gives none: "
                "type max_epochs=… as well; whichever comes first then ends the training"
            ) from exception


class CheckSchedule(pl.Callback):
    """Refuses to resume with more epochs where the learning rate depends on the number of epochs.

    The new schedule is stepped as often as the stored one was, and the two learning rates are compared.
    They are equal for a constant rate and for steps at fixed epochs. They differ for a cosine or a one-cycle
    schedule that ends with the training.

    Raises:
        UserError: the learning rates differ.
    """

    def on_load_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.stored = checkpoint["lr_schedulers"]

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Lightning restores the stored schedules after this, so the steps made here have no effect."""
        for config, stored in zip(trainer.lr_scheduler_configs, self.stored, strict=False):
            if not config.reduce_on_plateau and "last_epoch" in stored and "_last_lr" in stored:
                _compare_rates(config.scheduler, stored)


def _compare_rates(scheduler: Any, stored: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no optimizer has stepped
        for _ in range(stored["last_epoch"]):
            scheduler.step()
    new, old = (torch.tensor(rates) for rates in (scheduler.get_last_lr(), stored["_last_lr"]))
    if not torch.allclose(new, old, rtol=1e-4, atol=0):
        raise UserError(
            f"more epochs change the learning rate's schedule ({type(scheduler).__name__}) from its "
            f"beginning: after {stored['last_epoch']} steps it was {old[0]:.3g} and would have been "
            f"{new[0]:.3g}; warm_start=RUN starts a new run that begins with the weights"
        )
