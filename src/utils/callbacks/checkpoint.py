"""Checkpoints: when one is made, and what is in it that Lightning doesn't put there."""

import inspect
import random
from pathlib import Path
from typing import Any

from src.utils.batches import BatchLoader
from src.utils.run import Run
from src.utils.score import Score

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerFn


class MidEpoch(ModelCheckpoint):
    """Not after an epoch's last batch: from there Lightning would go on without its validation."""

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
        if not trainer.is_last_batch:
            super().on_train_batch_end(trainer, *arguments)


class FirstWeights(pl.Callback):
    """Begins with the weights of another run, and with nothing else of it."""

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        state = torch.load(self.checkpoint, map_location=module.device, weights_only=True)
        module.load_state_dict(state["state_dict"])


class NameModel(pl.Callback):
    """Writes into each checkpoint which class it belongs to, so that `load_model` need not be told."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_save_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        file = Path(inspect.getfile(type(module)))
        inside = file.is_relative_to(self.run.here.source)
        where = file.relative_to(self.run.here.source) if inside else type(module).__module__
        checkpoint["model_class"] = [str(where), type(module).__qualname__]


class Continuity(pl.Callback):
    """Keeps in each checkpoint what Lightning doesn't: random states, the place in the data, and
    the sums of the epoch. And whatever was measured before it is written first."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.kept: dict[str, Any] = {}
        self.epoch_ends = False

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.epoch_ends = False

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.epoch_ends = True

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.epoch_ends = False

    def on_save_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self.epoch_ends:  # Lightning would log them after the checkpoint
            step = trainer.fit_loop.epoch_loop._batches_that_stepped - 1
            metrics = trainer._logger_connector.metrics["log"]  # of this epoch, and no others
            self.run.log({**metrics, "epoch": trainer.current_epoch}, step)
        self.run.metrics.flush()
        checkpoint["continuity"] = {
            "random": _random_state(),
            "loader": loader.state_dict() if (loader := _loader(trainer)) else None,
            "scores": {name: score.sums for name, score in _scores(module).items()},
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self.kept = checkpoint["continuity"]
            for state in checkpoint["callbacks"].values():
                if "dirpath" in state:  # the repository may lie elsewhere now
                    state.update(_moved(state, state["dirpath"], str(self.run.checkpoints)))

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if not self.kept:
            return
        for name, score in _scores(module).items():
            score.sums = self.kept["scores"].get(name)
        # Lightning would do this, but not for a module that asks how many steps there will be
        if (loader := _loader(trainer)) and self.kept["loader"]:
            loader.load_state_dict(self.kept["loader"])

    def on_train_batch_start(self, *_: Any) -> None:
        if self.kept:  # as late as can be: setting up draws random numbers too
            _set_random_state(self.kept["random"])
            self.kept = {}


def _moved(value: Any, old: str, new: str) -> Any:
    """The same with another folder at the start of each path."""
    if isinstance(value, dict):
        return {_moved(key, old, new): _moved(one, old, new) for key, one in value.items()}
    return new + value[len(old) :] if isinstance(value, str) and value.startswith(old) else value


def _scores(module: pl.LightningModule) -> dict[str, Score]:
    """The Scores that a module has, each alone or in a dict of them."""
    found: dict[str, object] = {}
    for name, value in vars(module).items():
        several = value if isinstance(value, dict) else {"": value}
        found |= {f"{name}.{key}": one for key, one in several.items()}
    return {name: one for name, one in found.items() if isinstance(one, Score)}


def _loader(trainer: pl.Trainer) -> BatchLoader | None:
    """The training data, if they can say where they are."""
    return trainer.train_dataloader if isinstance(trainer.train_dataloader, BatchLoader) else None


def _random_state() -> dict[str, Any]:
    """Of torch, its GPUs, NumPy and Python, as plain values: checkpoints hold no code."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002  # the one that libraries use
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest],
        "python": random.getstate(),
    }


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002  # as above
    random.setstate(state["python"])
