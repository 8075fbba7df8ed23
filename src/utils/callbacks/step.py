"""What callbacks ask of a training step, whatever model makes it."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import pytorch_lightning as pl
from torch import Tensor


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
