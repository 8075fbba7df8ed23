"""What an epoch has added up so far: of a metric that is computed when the epoch ends.

A checkpoint within an epoch holds the sums of three kinds of metrics:

- `LossAndAccuracy`, in the attributes of a module;
- torchmetrics, in the module or its collections;
- what the module logs with `self.log(…, on_epoch=True)`, of which Lightning keeps the sums.
"""

from typing import Any

from src.utils.metrics import LossAndAccuracy

import pytorch_lightning as pl
from torch import Tensor
from torchmetrics import Metric


def epoch_sums(trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Any]:
    """All sums, as tensors and plain values."""
    scores = {name: metric.sums for name, metric in _own_metrics(module).items()}
    metrics = {
        name: {"count": metric.update_count, "state": metric.metric_state}
        for name, metric in _torchmetrics(trainer, module).items()
        if metric.update_called
    }
    return {"scores": scores, "torchmetrics": metrics, "logged": _logged(trainer)}


def restore_sums(trainer: pl.Trainer, module: pl.LightningModule, stored: dict[str, Any]) -> None:
    """Restore all but what was logged: see `add_logged`."""
    for name, own in _own_metrics(module).items():
        own.sums = stored["scores"].get(name)
    metrics = _torchmetrics(trainer, module)
    for name, state in stored.get("torchmetrics", {}).items():
        metric = metrics[name]
        metric._update_count, metric._computed = state["count"], None
        for key, value in state["state"].items():
            setattr(metric, key, value.to(metric.device) if isinstance(value, Tensor) else value)


def add_logged(trainer: pl.Trainer, stored: dict[str, Any]) -> None:
    """Add the stored sums to those of Lightning, which has them after it has logged the metric again.

    Args:
        stored: what is added is removed from it.
    """
    results = trainer.fit_loop.epoch_loop._results
    for key in [key for key in stored if key in results]:
        old, result = stored.pop(key), results[key]
        value = old["value"].to(result.value.device)
        if result.meta.is_max_reduction or result.meta.is_min_reduction:
            result.value = result.meta.reduce_fx(value, result.value)
        else:
            result.value = value + result.value
        if result.meta.is_mean_reduction:
            result.cumulated_batch_size += old["cumulated_batch_size"]


def _logged(trainer: pl.Trainer) -> dict[str, Any]:
    results = trainer.fit_loop.epoch_loop._results.items()
    return {
        key: result.metric_state
        for key, result in results
        if result.is_tensor and result.meta.on_epoch and not result.has_reset
    }


def _torchmetrics(trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Metric]:
    """Those of the training; Lightning resets those that a validation logs when it ends."""
    validated = {id(each.value) for each in trainer.fit_loop.epoch_loop.val_loop._results.values()}
    return {
        name: part
        for name, part in module.named_modules()
        if isinstance(part, Metric) and id(part) not in validated
    }


def _own_metrics(module: pl.LightningModule) -> dict[str, LossAndAccuracy]:
    """The LossAndAccuracy attributes of a module, and those in its attributes that are dicts."""
    values: dict[str, object] = {}
    for name, value in vars(module).items():
        parts = value if isinstance(value, dict) else {"": value}
        values |= {f"{name}.{key}": part for key, part in parts.items()}
    return {name: value for name, value in values.items() if isinstance(value, LossAndAccuracy)}
