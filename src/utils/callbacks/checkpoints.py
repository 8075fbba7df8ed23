"""Checkpoints: when they are saved, and what is in them.

| class            | what it does                                                           |
|------------------|------------------------------------------------------------------------|
| `LastCheckpoint` | saves `last.ckpt` at the end of each epoch                             |
| `BestCheckpoint` | saves `best.ckpt` when the monitored metric is better than before      |
| `StepCheckpoint` | saves `last.ckpt` every few steps, too (checkpoint_every=100)          |
| `InitialWeights` | loads the weights of another run before the first step (warm_start)    |
| `SaveModelClass` | stores in each checkpoint the class of the model, for `load_model`     |
| `WholeFiles`     | replaces a checkpoint in one step                                      |
"""

import inspect
import logging
from pathlib import Path
from typing import Any

from src.utils.errors import UserError
from src.utils.files import replace_file
from src.utils.run import Run

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.trainer.states import TrainerFn

log = logging.getLogger(__name__)


class LastCheckpoint(ModelCheckpoint):
    """Saves `last.ckpt` at the end of each epoch.

    It is a class of its own, so that Lightning stores its state beside that of another ModelCheckpoint.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(
            run.checkpoints, "last", enable_version_counter=False, save_on_train_epoch_end=True
        )


class BestCheckpoint(ModelCheckpoint):
    """Saves `best.ckpt` after each validation; after each epoch where `monitor` begins with `train`.

    Raises:
        UserError: `monitor` is not among the metrics: of the batch that Lightning validates before the
            training (`num_sanity_val_steps`), of the first validation, or of the first epoch.
    """

    def __init__(self, run: Run, monitor: str, mode: str) -> None:
        is_train_metric = monitor.startswith("train")
        self.is_validation_metric = monitor.startswith("val")
        super().__init__(
            run.checkpoints,
            "best",
            monitor=monitor,
            mode=mode,
            enable_version_counter=False,
            save_on_train_epoch_end=True if is_train_metric else None,
        )
        self.is_train_metric = is_train_metric
        self.validated = self.warned = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        if trainer.sanity_checking:
            self._check_before_training(trainer)
            return
        self.validated = True
        if self.monitor in trainer.callback_metrics:
            super().on_validation_end(trainer, pl_module)
        elif not self.is_train_metric and not trainer.is_last_batch:  # on_train_epoch_end is next
            raise self._unknown_monitor(trainer)

    def _check_before_training(self, trainer: pl.Trainer) -> None:
        """Another metric may be one of the training; a module may log nothing in this check."""
        metrics = trainer.callback_metrics
        if self.is_validation_metric and metrics and self.monitor not in metrics:
            raise self._unknown_monitor(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.monitor in trainer.callback_metrics:
            super().on_train_epoch_end(trainer, pl_module)
        elif self.validated or self.is_train_metric:
            raise self._unknown_monitor(trainer)
        elif not trainer.enable_validation and trainer.is_global_zero and not self.warned:
            self.warned = True
            log.warning(
                "%s is not measured without validation: only last.ckpt is saved", self.monitor
            )

    def _unknown_monitor(self, trainer: pl.Trainer) -> UserError:
        names = sorted({*trainer.callback_metrics} - {"epoch_seconds", "samples_per_second"})
        known = f"there are {', '.join(names)}" if names else "the module logs none"
        return UserError(f"monitor={self.monitor!r} is not among the metrics: {known}")


class StepCheckpoint(Checkpoint):
    """Saves `last.ckpt` every `every_n_train_steps` steps, not only at the end of an epoch."""

    def __init__(self, run: Run, every_n_train_steps: int) -> None:
        self.run, self.every = run, every_n_train_steps
        self.saved_step = 0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.saved_step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if can_resume_after_batch(trainer):
            self._save_if_due(trainer)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        is_fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if is_fitting and not trainer.is_last_batch:
            self._save_if_due(trainer)

    def _save_if_due(self, trainer: pl.Trainer) -> None:
        if trainer.global_step // self.every > self.saved_step // self.every:
            self.saved_step = trainer.global_step
            trainer.save_checkpoint(self.run.checkpoints / "last.ckpt")


def can_resume_after_batch(trainer: pl.Trainer) -> bool:
    """Whether a training resumes exactly from a checkpoint that is saved in `on_train_batch_end`.

    It does not where a validation or the end of the epoch follows: Lightning would skip that.
    """
    loop = trainer.fit_loop
    fetcher = loop._data_fetcher
    assert fetcher is not None
    return not trainer.is_last_batch and not loop.epoch_loop._should_check_val_fx(fetcher)


class InitialWeights(pl.Callback):
    """Loads the weights in a checkpoint, and nothing else from it, when `fit` starts."""

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        state = torch.load(self.checkpoint, map_location=module.device, weights_only=True)
        module.load_state_dict(state["state_dict"])


class SaveModelClass(pl.Callback):
    """Stores the file and the class of the model in each checkpoint, where `load_model` reads them.

    The file is relative to the folder of the experiment; a class from elsewhere has its module's name.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_save_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        file, source = Path(inspect.getfile(type(module))), self.run.experiment.source
        is_own = file.is_relative_to(source)
        location = str(file.relative_to(source)) if is_own else type(module).__module__
        checkpoint["model_class"] = [location, type(module).__qualname__]


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside the one that it replaces: it is never half written.

    Lightning writes to the system's temporary folder; from another disk, it then copies into the old file.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        if "://" in str(path):  # elsewhere
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with replace_file(Path(path)) as draft:
            super().save_checkpoint(checkpoint, draft, storage_options)
