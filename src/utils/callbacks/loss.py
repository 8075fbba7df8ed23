"""The loss of single steps."""

import math

from src.utils.callbacks.step import loss_of, step_of
from src.utils.errors import UserError
from src.utils.run import Run

import pytorch_lightning as pl

STEP_LOSS = "train_loss_step"  # also Lightning's own name where a module logs `train_loss` on both


class StepLoss(pl.Callback):
    """Logs the loss every `log_every_n_steps`; no number, there or at an epoch's end, stops the training.

    Where `training_step` returns no loss, those that it logs are watched.
    """

    def __init__(self, run: Run, every: int) -> None:
        self.run, self.every = run, every

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: object, *_: object
    ) -> None:
        step = step_of(trainer)
        due = self.every and step % self.every == 0
        if not (due or trainer.is_last_batch):
            return
        loss = loss_of(outputs)
        losses = _logged_losses(trainer) if loss is None else {"the loss": loss.item()}
        for name, value in losses.items():
            if not math.isfinite(value):
                raise UserError(f"{name} is {value} at step {step}: try a lower learning_rate")
        if due and loss is not None and STEP_LOSS not in trainer.callback_metrics:
            self.run.log({STEP_LOSS: losses["the loss"]}, step)


def _logged_losses(trainer: pl.Trainer) -> dict[str, float]:
    """What a module that returns no loss logs under the name of one."""
    return {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if "loss" in name.lower() and not name.startswith(("val", "test"))
    }
