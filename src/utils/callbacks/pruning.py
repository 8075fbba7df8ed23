"""Pruning: Optuna's pruner is asked after each validation or epoch whether to end the trial."""

from typing import Any

from src.utils.run import Run
from src.utils.study.trial import Pruned

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn

KEY = "pruning"  # of the state in a checkpoint


class Pruning(pl.Callback):
    """Reports the monitored metric to the trial, and ends the training when the pruner decides so.

    It does so after each validation. Where there is none, or `monitor` begins with `train`, it is after each
    epoch.

    In a distributed training, rank zero has the trial and broadcasts the decision.

    Raises:
        Pruned: the trial is pruned.
    """

    def __init__(self, run: Run, monitor: str) -> None:
        self.run, self.monitor = run, monitor
        self.reports, self.is_due = 0, False

    def on_save_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[KEY] = {"reports": self.reports, "is_due": self.is_due}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Count on. With `state_dict`, Lightning would warn where a run is resumed without its study."""
        if trainer.state.fn == TrainerFn.FITTING and KEY in checkpoint:
            self.reports, self.is_due = checkpoint[KEY]["reports"], checkpoint[KEY]["is_due"]

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        is_fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if is_fitting and not self.monitor.startswith("train"):
            self._report(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.is_due = not trainer.enable_validation or self.monitor.startswith("train")

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Called after `on_train_epoch_end`, when Lightning has all metrics of the epoch."""
        if self.is_due:
            self.is_due = False
            self._report(trainer)

    def _report(self, trainer: pl.Trainer) -> None:
        if self.monitor not in trainer.callback_metrics:
            return  # BestCheckpoint refuses it, or warns
        self.reports += 1
        if trainer.strategy.broadcast(self._should_prune(trainer)):
            raise Pruned(f"pruned at report {self.reports}")

    def _should_prune(self, trainer: pl.Trainer) -> bool:
        try:
            self.run.report(float(trainer.callback_metrics[self.monitor]), self.reports)
        except Pruned:
            return True
        return False

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.on_train_epoch_start(trainer, module)

    def on_fit_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Where the training ended early, count on to its planned end: a part that follows is then compared
        with the same part of other trials. A training that is resumed at its end comes here, too."""
        self.on_train_epoch_start(trainer, module)
        limits = (
            (trainer.max_epochs, trainer.current_epoch),
            (trainer.max_steps, trainer.global_step),
        )
        shares = [
            done / limit for limit, done in limits if limit is not None and limit > 0 and done
        ]
        if shares:
            self.run.count_report(round(self.reports / max(shares)))
