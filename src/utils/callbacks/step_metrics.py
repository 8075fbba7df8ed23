"""The loss of single steps."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from src.utils.errors import UserError
from src.utils.run import Run

import pytorch_lightning as pl
from torch import Tensor
from torch.optim import Optimizer

STEP_LOSS = "train_loss_step"  # also Lightning's own name where a module logs `train_loss` on both


class LossOfStep(pl.Callback):
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


class LearningRateOfStep(pl.Callback):
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


def step_of(trainer: pl.Trainer) -> int:
    """The number of the step that is being made, from 1: optimizer steps, and under manual
    optimization batches, where `global_step` counts the steps of each optimizer."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped + 1


def loss_of(outputs: Any) -> Tensor | None:
    """The loss [] in what Lightning hands to `on_train_batch_end`, if `training_step` returned one."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    return loss if isinstance(loss, Tensor) and loss.numel() == 1 else None


def batch_size(batch: Any) -> int | None:
    """How many samples a batch has: the first dimension that all of its tensors share, else None."""
    sizes = set(_sizes(batch))
    return sizes.pop() if len(sizes) == 1 else None


def _sizes(batch: Any) -> Iterator[int]:
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
        yield from _sizes(part)


# MERGED callbacks/learning_rate: The learning rate of single steps.

# MERGED callbacks/step: What callbacks ask of a training step, whatever model makes it.
