"""A Lightning trainer that tells the run everything."""

import inspect
import logging
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

from src.utils.callbacks.interruption import Continuity, Interruption
from src.utils.callbacks.logger import RunLogger
from src.utils.callbacks.progress import Progress
from src.utils.errors import UserError
from src.utils.layout import LOGS
from src.utils.run import Run
from src.utils.settings import TrainingSettings

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.profilers import Profiler
from torch import Tensor

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
    monitor: str,
    mode: Literal["min", "max"],
    callbacks: Sequence[pl.Callback] = (),
) -> pl.Trainer:
    """A trainer whose metrics and checkpoints belong to `run`; `monitor` says which epoch is best."""
    if run.leads:
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
            *_pruning(run, monitor),
            *callbacks,
        ],
        default_root_dir=LOGS / "lightning",
        enable_progress_bar=False,  # ours
        enable_model_summary=False,
        num_sanity_val_steps=0,
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


class NoProfiler(Profiler):
    """Lightning asks its profiler seventy times a step; its own way of doing nothing takes 0.2 ms."""

    _nothing = nullcontext()

    def profile(self, action_name: str) -> nullcontext[None]:  # type: ignore[override]  # Lightning's is a generator made into a context manager
        return self._nothing

    def start(self, action_name: str) -> None:
        """Nothing."""

    def stop(self, action_name: str) -> None:
        """Nothing."""


class MidEpoch(ModelCheckpoint):
    """Not after an epoch's last batch: from there Lightning would go on without its validation."""

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
        if not trainer.is_last_batch:
            super().on_train_batch_end(trainer, *arguments)


class StepLoss(pl.Callback):
    """Logs the loss every `log_every_n_steps`; no number, there or at an epoch's end, stops the training."""

    def __init__(self, run: Run, every: int) -> None:
        self.run, self.every = run, every

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        step = trainer.global_step
        due = self.every and step % self.every == 0
        if not (due or trainer.is_last_batch):
            return
        loss: Tensor = outputs["loss"].detach()
        if not torch.isfinite(loss):
            raise UserError(f"the loss is {loss} at step {step}: try a lower learning_rate")
        if due:
            self.run.log({"train_loss_step": loss}, step)


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
