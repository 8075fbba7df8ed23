"""A Lightning trainer that tells the run everything."""

import logging
import warnings
from collections.abc import Sequence
from typing import Any, Literal

from src.utils.callbacks.checkpoint import Continuity, FirstWeights, MidEpoch, NameModel
from src.utils.callbacks.interruption import Interruption
from src.utils.callbacks.logger import RunLogger
from src.utils.callbacks.loss import StepLoss
from src.utils.callbacks.profiler import NoProfiler
from src.utils.callbacks.progress import Progress
from src.utils.execution.trainer_arguments import trainer_arguments
from src.utils.layout import LOGS
from src.utils.run import Run
from src.utils.settings import TrainingSettings

import pytorch_lightning as pl
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint

logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # its banners and tips
warnings.filterwarnings("ignore", r"`isinstance\(treespec")  # Lightning, with today's torch
warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")  # resumed
warnings.filterwarnings("ignore", "It is recommended to use .*sync_dist")  # Score adds them up
warnings.filterwarnings("ignore", "The number of training batches .* is smaller than the logging")
warnings.filterwarnings("ignore", "The '.*_dataloader' does not have many workers")  # in memory


# What is Lightning's own unless `trainer` says otherwise: its bar, tables and checks
OURS = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
LAST: dict[str, Any] = {"enable_version_counter": False}  # always the same file, last.ckpt


def tracked_trainer(
    run: Run,
    cfg: TrainingSettings,
    monitor: str,
    mode: Literal["min", "max"],
    callbacks: Sequence[pl.Callback] = (),
) -> pl.Trainer:
    """A trainer whose metrics and checkpoints belong to `run`; `monitor` says which epoch is best."""
    if run.leads:
        run.tag({"monitor": f"{monitor} {mode}"})  # what leaderboards sort by
    ours = {"profiler": NoProfiler(), **OURS}
    return pl.Trainer(
        **{**ours, **trainer_arguments(cfg.trainer)},
        logger=RunLogger(run),
        callbacks=[
            ModelCheckpoint(
                run.checkpoints, "best", monitor=monitor, mode=mode, save_on_train_epoch_end=True
            ),
            ModelCheckpoint(run.checkpoints, "last", **LAST, save_on_train_epoch_end=True),
            *_every(run, cfg.checkpoint_every),
            LearningRateMonitor(logging_interval="step"),
            NameModel(run),
            *([FirstWeights(run.weights_from)] if run.weights_from else []),
            StepLoss(run, cfg.trainer.get("log_every_n_steps", 50)),
            Continuity(run),
            Progress(bar="enable_progress_bar" not in cfg.trainer),
            Interruption(run),
            *_pruning(run, monitor),
            *callbacks,
        ],
        default_root_dir=LOGS / "lightning",
    )


def _pruning(run: Run, monitor: str) -> list[pl.Callback]:
    """In a trial with one objective: ask the pruner."""
    if run.trial is None or run.trial.objectives > 1:
        return []
    from src.utils.callbacks.pruning import Pruning  # late: only trials need Optuna

    return [Pruning(run.trial.open() if run.leads else None, monitor)]


def _every(run: Run, steps: int | None) -> list[pl.Callback]:
    """The last checkpoint more often than once an epoch."""
    return [MidEpoch(run.checkpoints, "last", **LAST, every_n_train_steps=steps)] if steps else []


def best_checkpoint(trainer: pl.Trainer) -> ModelCheckpoint:
    """The best epoch: its `best_model_path` and `best_model_score`."""
    best = trainer.checkpoint_callback
    assert isinstance(best, ModelCheckpoint)
    return best
