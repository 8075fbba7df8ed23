"""Checkpoints: when one is made, and what is in it that Lightning doesn't put there."""

import inspect
from pathlib import Path
from typing import Any

from src.utils.run import Run

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.trainer.states import TrainerFn


def resumable(trainer: pl.Trainer) -> bool:
    """Whether training goes on exactly from a checkpoint made after this batch: not where a validation
    or the epoch's end follows, which Lightning would leave out."""
    loop = trainer.fit_loop
    fetcher = loop._data_fetcher
    assert fetcher is not None
    return not trainer.is_last_batch and not loop.epoch_loop._should_check_val_fx(fetcher)


class MidEpoch(Checkpoint):
    """Writes the last checkpoint every few steps, and not only at the end of an epoch."""

    def __init__(self, run: Run, every_n_train_steps: int) -> None:
        self.run, self.every = run, every_n_train_steps
        self.step = 0  # of the last one

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if resumable(trainer):
            self._save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if fitting and not trainer.is_last_batch:
            self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        if trainer.global_step // self.every > self.step // self.every:
            self.step = trainer.global_step
            trainer.save_checkpoint(self.run.checkpoints / "last.ckpt")


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
