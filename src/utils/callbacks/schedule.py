"""Whether a training can have more epochs than its learning rate was planned for."""

import warnings
from typing import Any

from src.utils.errors import UserError

import pytorch_lightning as pl
import torch


class CheckSchedule(pl.Callback):
    """Refuses to go on with more epochs where the learning rate depends on when training ends.

    The schedule as it is planned now is stepped as often as the kept one was: a constant rate, or steps
    at given epochs, come to the same rate; a cosine or a cycle that ends with the training does not.
    """

    def on_load_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.kept = checkpoint["lr_schedulers"]

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Lightning restores the kept schedule after this, whatever has been stepped here."""
        for config, kept in zip(trainer.lr_scheduler_configs, self.kept, strict=False):
            if not config.reduce_on_plateau and "last_epoch" in kept and "_last_lr" in kept:
                _compare(config.scheduler, kept)


def _compare(scheduler: Any, kept: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no optimizer has stepped
        for _ in range(kept["last_epoch"]):
            scheduler.step()
    now, before = (torch.tensor(rates) for rates in (scheduler.get_last_lr(), kept["_last_lr"]))
    if not torch.allclose(now, before, rtol=1e-4, atol=0):
        raise UserError(
            f"more epochs change the learning rate's schedule ({type(scheduler).__name__}) from its "
            f"beginning: after {kept['last_epoch']} steps it was {before[0]:.3g} and would have been "
            f"{now[0]:.3g}; fork=true starts a new run that begins with the weights"
        )
