"""A Lightning trainer that tells the run everything."""

import logging
import warnings
from collections.abc import Sequence
from typing import Any

from src.utils.callbacks.checkpoint import Continuity, FirstWeights, MidEpoch, NameModel
from src.utils.callbacks.interruption import Interruption
from src.utils.callbacks.logger import RunLogger
from src.utils.callbacks.loss import StepLoss
from src.utils.callbacks.profiler import NoProfiler
from src.utils.callbacks.progress import Progress
from src.utils.errors import UserError
from src.utils.layout import LOGS
from src.utils.run import Run
from src.utils.settings import TrainingSettings
from src.utils.sweep.direction import Mode

import pytorch_lightning as pl
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint

logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # its banners and tips
warnings.filterwarnings("ignore", r"`isinstance\(treespec")  # Lightning, with today's torch
warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")  # resumed
warnings.filterwarnings("ignore", "It is recommended to use .*sync_dist")  # Score adds them up
warnings.filterwarnings("ignore", "The number of training batches .* is smaller than the logging")
warnings.filterwarnings("ignore", "The '.*_dataloader' does not have many workers")  # in memory


LAST: dict[str, Any] = {"enable_version_counter": False}  # always the same file, last.ckpt


def tracked_trainer(
    run: Run,
    cfg: TrainingSettings,
    monitor: str | None = None,
    mode: Mode | None = None,
    callbacks: Sequence[pl.Callback] = (),
) -> pl.Trainer:
    """A trainer whose metrics and checkpoints belong to `run`; `monitor` says which epoch is best.

    Both it and `mode` are settings; what is given here goes before those.
    """
    monitor, mode = _monitored(run, cfg, monitor, mode)
    if run.leads and monitor is not None:
        run.tag({"monitor": f"{monitor} {mode}"})  # what leaderboards sort by
    return pl.Trainer(
        **{"profiler": NoProfiler(), **cfg.trainer},
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
            StepLoss(run, cfg.trainer["log_every_n_steps"]),
            Continuity(run),
            Progress(),
            Interruption(run),
            *(_pruning(run, monitor) if monitor is not None else []),
            *callbacks,
        ],
        default_root_dir=LOGS / "lightning",
        enable_progress_bar=False,  # ours
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def _monitored(
    run: Run, cfg: TrainingSettings, monitor: str | None, mode: Mode | None
) -> tuple[str, Mode]:
    """What is monitored and which way it is good; a search has to go that way."""
    monitor, mode = monitor or cfg.monitor, mode or cfg.mode
    if monitor is None or mode is None:
        raise UserError(
            "monitor=… and mode=min or mode=max belong together: set both, in config.yaml"
        )
    if run.trial is not None and run.leads:
        run.trial.agree(mode)
    return monitor, mode


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
