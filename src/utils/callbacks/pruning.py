"""Pruning: Optuna's pruner is asked after each validation whether to end the trial."""

from src.utils.study.trial import Pruned

import optuna
import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn


class Pruning(pl.Callback):
    """Reports the monitored metric to the trial, and ends the training when the pruner decides so.

    In a distributed training, rank zero has the trial and broadcasts the decision.

    Raises:
        Pruned: the trial is pruned.
    """

    def __init__(self, trial: optuna.Trial | None, monitor: str) -> None:
        self.trial, self.monitor = trial, monitor
        self.validations = 0

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        if self.monitor not in trainer.callback_metrics:
            return  # BestCheckpoint reports it
        self.validations += 1
        should_prune = False
        if self.trial is not None:
            self.trial.report(float(trainer.callback_metrics[self.monitor]), self.validations)
            should_prune = self.trial.should_prune()
        if trainer.strategy.broadcast(should_prune):
            raise Pruned(f"pruned after validation {self.validations}")
