"""The loss of single steps."""

import math
from typing import Any

from src.utils.errors import UserError
from src.utils.run import Run

import pytorch_lightning as pl


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
        loss = outputs["loss"].item()
        if not math.isfinite(loss):
            raise UserError(f"the loss is {loss} at step {step}: try a lower learning_rate")
        if due:
            self.run.log({"train_loss_step": loss}, step)
