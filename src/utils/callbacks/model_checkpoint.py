"""Which checkpoints a run keeps: the best one and the last one."""

import logging

from src.utils.errors import UserError
from src.utils.run import Run

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
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
