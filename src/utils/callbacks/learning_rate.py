"""The learning rate of single steps."""

from collections.abc import Sequence

from src.utils.callbacks.step import step_of
from src.utils.run import Run

import pytorch_lightning as pl
from torch.optim import Optimizer


class LearningRate(pl.Callback):
    """Logs the rate that a step is made with, every `log_every_n_steps` and at each epoch's last step.

    Lightning's LearningRateMonitor also puts it among the metrics, from where a stale one would be
    logged again at the end of an epoch.
    """

    def __init__(self, run: Run, every: int) -> None:
        self.run, self.every = run, every

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, *_: object
    ) -> None:
        step = step_of(trainer)
        if trainer.is_last_batch or (self.every and step % self.every == 0):
            self.run.log(learning_rates(trainer.optimizers), step)


def learning_rates(optimizers: Sequence[Optimizer]) -> dict[str, float]:
    """`lr`; `lr/0`, `lr/1`, … where there are several optimizers or groups of parameters."""
    rates = [float(group["lr"]) for one in optimizers for group in one.param_groups]
    return (
        {"lr": rates[0]} if len(rates) == 1 else {f"lr/{n}": rate for n, rate in enumerate(rates)}
    )
