"""Which checkpoints a run keeps: the best one and the last one."""

import inspect
import logging
from pathlib import Path
from typing import Any

from src.utils.errors import UserError
from src.utils.run import Run

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerFn

log = logging.getLogger(__name__)


class LastCheckpoint(ModelCheckpoint):
    """`last.ckpt`, at the end of each epoch. A class of its own has a state of its own in checkpoints,
    beside that of a ModelCheckpoint among `callbacks`."""

    def __init__(self, run: Run) -> None:
        super().__init__(
            run.checkpoints, "last", enable_version_counter=False, save_on_train_epoch_end=True
        )


class BestCheckpoint(ModelCheckpoint):
    """`best.ckpt`, after each validation; where `monitor` begins with `train`, after each epoch.

    Raises:
        UserError: `monitor` is not among the metrics after the first validation.
    """

    def __init__(self, run: Run, monitor: str, mode: str) -> None:
        of_training = monitor.startswith("train")
        super().__init__(
            run.checkpoints,
            "best",
            monitor=monitor,
            mode=mode,
            enable_version_counter=False,
            save_on_train_epoch_end=True if of_training else None,
        )
        self.of_training = of_training
        self.validated = self.warned = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        self.validated = True
        if self.monitor in trainer.callback_metrics:
            super().on_validation_end(trainer, pl_module)
        elif not self.of_training and not trainer.is_last_batch:  # there the epoch's end is next
            raise self._unknown(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.monitor in trainer.callback_metrics:
            super().on_train_epoch_end(trainer, pl_module)
        elif self.validated or self.of_training:
            raise self._unknown(trainer)
        elif not trainer.enable_validation and trainer.is_global_zero and not self.warned:
            self.warned = True
            log.warning(
                "%s is not measured without validation: only last.ckpt is kept", self.monitor
            )

    def _unknown(self, trainer: pl.Trainer) -> UserError:
        names = sorted({*trainer.callback_metrics} - {"epoch_seconds", "samples_per_second"})
        there = f"there are {', '.join(names)}" if names else "the module logs none"
        return UserError(f"monitor={self.monitor!r} is not among the metrics: {there}")


def resumable(trainer: pl.Trainer) -> bool:
    """Whether training goes on exactly from a checkpoint made after this batch: not where a validation
    or the epoch's end follows, which Lightning would leave out."""
    loop = trainer.fit_loop
    fetcher = loop._data_fetcher
    assert fetcher is not None
    return not trainer.is_last_batch and not loop.epoch_loop._should_check_val_fx(fetcher)


class StepCheckpoint(Checkpoint):
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


class InitialWeights(pl.Callback):
    """Begins with the weights of another run, and with nothing else of it."""

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        state = torch.load(self.checkpoint, map_location=module.device, weights_only=True)
        module.load_state_dict(state["state_dict"])


class SaveModelClass(pl.Callback):
    """Writes into each checkpoint which class it belongs to, so that `load_model` need not be told."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_save_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        file = Path(inspect.getfile(type(module)))
        inside = file.is_relative_to(self.run.experiment.source)
        where = file.relative_to(self.run.experiment.source) if inside else type(module).__module__
        checkpoint["model_class"] = [str(where), type(module).__qualname__]


# MERGED callbacks/checkpoint: Checkpoints: when one is made, and what is in it that Lightning doesn't put there.
