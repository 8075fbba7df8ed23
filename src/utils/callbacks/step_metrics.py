"""Metrics of single steps: the loss, the learning rate, and the check for a loss that is NaN or infinite.

Below the two callbacks are functions that read a training step, whatever the model: `current_step`,
`returned_loss` and `batch_size`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from src.utils.errors import UserError
from src.utils.run import Run

import pytorch_lightning as pl
from torch import Tensor
from torch.optim import Optimizer

STEP_LOSS = (
    "train_loss_step"  # Lightning's name, too, if a module logs `train_loss` per step and epoch
)


class StepLoss(pl.Callback):
    """Logs `train_loss_step` every `log_every_n_steps`, and stops the training if the loss is not finite.

    The check is made at these steps and at the end of each epoch. If `training_step` returns no loss, the
    losses that it logs are checked.

    Raises:
        UserError: a loss is NaN or infinite.
    """

    def __init__(self, run: Run, every: int) -> None:
        self.run, self.every = run, every

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: object, *_: object
    ) -> None:
        step = current_step(trainer)
        is_due = self.every and step % self.every == 0
        if not (is_due or trainer.is_last_batch):
            return
        loss = returned_loss(outputs)
        losses = _logged_losses(trainer) if loss is None else {"the loss": loss.item()}
        for name, value in losses.items():
            if not math.isfinite(value):
                raise UserError(f"{name} is {value} at step {step}: try a lower learning_rate")
        if is_due and loss is not None and STEP_LOSS not in trainer.callback_metrics:
            self.run.log({STEP_LOSS: losses["the loss"]}, step)


def _logged_losses(trainer: pl.Trainer) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if "loss" in name.lower() and not name.startswith(("val", "test"))
    }


class StepLearningRate(pl.Callback):
    """Logs the learning rate of a step, every `log_every_n_steps` and at the last step of each epoch.

    The name is `lr`; with several optimizers or parameter groups `lr/0`, `lr/1`, ….
    Lightning's LearningRateMonitor also adds it to the callback metrics. At the end of an epoch an old value
    would be logged again from there.
    """

    def __init__(self, run: Run, every: int) -> None:
        self.run, self.every = run, every

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, *_: object
    ) -> None:
        step = current_step(trainer)
        if trainer.is_last_batch or (self.every and step % self.every == 0):
            self.run.log(_learning_rates(trainer.optimizers), step)


def _learning_rates(optimizers: Sequence[Optimizer]) -> dict[str, float]:
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    rates = [float(group["lr"]) for group in groups]
    if len(rates) == 1:
        return {"lr": rates[0]}
    return {f"lr/{number}": rate for number, rate in enumerate(rates)}


def current_step(trainer: pl.Trainer) -> int:
    """The number of the current step, from 1.

    It counts optimizer steps; under manual optimization batches, where Lightning's `global_step` counts the
    steps of each optimizer.
    """
    return trainer.fit_loop.epoch_loop._batches_that_stepped + 1


def returned_loss(outputs: Any) -> Tensor | None:
    """The loss [] that `training_step` returned, from the `outputs` of `on_train_batch_end`, if any."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    return loss if isinstance(loss, Tensor) and loss.numel() == 1 else None


def batch_size(batch: Any) -> int | None:
    """The first dimension of all tensors in a batch; None where they differ or there are none."""
    sizes = set(_first_dimensions(batch))
    return sizes.pop() if len(sizes) == 1 else None


def _first_dimensions(batch: Any) -> Iterator[int]:
    if isinstance(batch, Tensor):
        if batch.ndim:
            yield batch.shape[0]
        return
    if isinstance(batch, Mapping):
        parts = list(batch.values())
    elif isinstance(batch, list | tuple):
        parts = list(batch)
    elif is_dataclass(batch):
        parts = [getattr(batch, field.name) for field in fields(batch)]
    else:
        return
    for part in parts:
        yield from _first_dimensions(part)
