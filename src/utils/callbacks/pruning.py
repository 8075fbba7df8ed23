"""Pruning: Optuna's pruner is asked after each validation whether to end the trial."""

from src.utils.run import Run
from src.utils.study.trial import Pruned

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn


class Pruning(pl.Callback):
    """Reports the monitored metric to the trial, and ends the training when the pruner decides so.

    In a distributed training, rank zero has the trial and broadcasts the decision.

    Raises:
        Pruned: the trial is pruned.
    """

    def __init__(self, run: Run, monitor: str) -> None:
        self.run, self.monitor = run, monitor
        self.validations = 0

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        if self.monitor not in trainer.callback_metrics:
            return  # BestCheckpoint reports it
        self.validations += 1
        if trainer.strategy.broadcast(self._should_prune(trainer)):
            raise Pruned(f"pruned after validation {self.validations}")

    def _should_prune(self, trainer: pl.Trainer) -> bool:
        try:
            self.run.report(float(trainer.callback_metrics[self.monitor]), self.validations)
        except Pruned:
            return True
        return False

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Where the training ended early, count on to its planned end: a part that follows is then compared
        with the same part of other trials."""
        limits = (
            (trainer.max_epochs, trainer.current_epoch),
            (trainer.max_steps, trainer.global_step),
        )
        shares = [
            done / limit for limit, done in limits if limit is not None and limit > 0 and done
        ]
        if shares:
            self.run.count_report(round(self.validations / max(shares)))
