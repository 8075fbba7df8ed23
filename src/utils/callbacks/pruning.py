"""Whether a trial is worth going on, asked after every validation."""

from src.utils.study.trial import Pruned

import optuna
import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn


class Pruning(pl.Callback):
    """Reports the monitored metric to the trial, and ends the training when its pruner says so.

    In a distributed training the first process, which has the trial, asks and tells the others.
    """

    def __init__(self, trial: optuna.Trial | None, monitor: str) -> None:
        self.trial, self.monitor = trial, monitor
        self.validations = 0

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        if self.monitor not in trainer.callback_metrics:
            return  # what is to be said of it, BestCheckpoint says
        self.validations += 1
        hopeless = False
        if self.trial is not None:
            self.trial.report(float(trainer.callback_metrics[self.monitor]), self.validations)
            hopeless = self.trial.should_prune()
        if trainer.strategy.broadcast(hopeless):
            raise Pruned(f"pruned after validation {self.validations}")
