"""Progress of a training: a progress bar on a terminal, and one log line per epoch.

epoch 1/5  train_acc 0.8957  train_loss 0.4004  val_acc 0.9825  val_loss 0.0585  1.2 s  3,800 samples/s
"""

import logging
import math
import time
from typing import Any

from src.utils.callbacks.step_metrics import batch_size, current_step, returned_loss

import pytorch_lightning as pl
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.trainer.states import TrainerFn
from rich import get_console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from torch import Tensor

log = logging.getLogger(__name__)
REFRESH_SECONDS = 0.2  # between two updates of the bar


class Progress(pl.Callback):
    """Shows the bar, and logs `epoch_seconds` and `samples_per_second`, both without validation.

    Args:
        prefix: the name of a part of a run, at the start of each line.
        bar: False where the setting `trainer.enable_progress_bar` chooses Lightning's bar, or none.
    """

    def __init__(self, prefix: str, bar: bool = True) -> None:
        self.prefix, self.shows_bar = prefix.replace("/", "  "), bar

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.throughput, self.refreshed = Throughput(), 0.0
        self.epoch_ended = False
        self.printed: dict[str, Tensor] = {}  # the metrics at the last line
        self.validated: dict[str, Tensor] = {}  # at the last line of a validation within this epoch
        on_terminal = get_console().is_terminal and trainer.is_global_zero
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=get_console(),
            transient=True,
            auto_refresh=False,
            disable=not (self.shows_bar and on_terminal),
        )
        self.bar.start()
        done = current_step(trainer) - 1
        self.task = self.bar.add_task("training", total=_total_steps(trainer), completed=done)

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._print_epoch(trainer)
        self.throughput = Throughput()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        now = self.throughput.count(batch_size(batch))
        if now - self.refreshed > REFRESH_SECONDS and not self.bar.disable:
            self.refreshed = now
            loss = returned_loss(outputs)
            text = "training" if loss is None else f"loss {loss.item():.4f}"
            self.bar.update(self.task, completed=current_step(trainer), description=text)
            self.bar.refresh()

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if _is_within_epoch(trainer):
            self.throughput.pause()

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.validated = {}
        if _is_within_epoch(trainer):
            self.throughput.resume()
            epoch = _epoch_text(trainer.current_epoch + 1, trainer.max_epochs)
            self._print_line(trainer, f"{epoch}  step {current_step(trainer)}", "")
            self.validated = self.printed

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        module.log_dict(self.throughput.metrics(trainer.world_size))
        self.epoch_ended = True

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._print_epoch(trainer)
        self.bar.stop()

    def on_exception(
        self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException
    ) -> None:
        if hasattr(self, "bar"):
            self.bar.stop()

    def _print_epoch(self, trainer: pl.Trainer) -> None:
        """Called after `on_train_epoch_end`, when Lightning has all metrics of the epoch."""
        if self.epoch_ended:
            self.epoch_ended = False
            epoch = _epoch_text(trainer.current_epoch, trainer.max_epochs)
            self._print_line(trainer, epoch, self.throughput.text(trainer.world_size))
            self.validated = {}

    @rank_zero_only
    def _print_line(self, trainer: pl.Trainer, position: str, speed: str) -> None:
        """A line with the metrics that are new since the line before: other tensors, and not those of a
        validation that has its own line, of which Lightning makes other tensors."""
        metrics, before = dict(trainer.callback_metrics), self.printed
        self.printed = metrics
        hidden = {*Throughput.NAMES, *_learning_rate_names(trainer)}
        new = {
            name: value
            for name, value in metrics.items()
            if name not in hidden
            and before.get(name) is not value
            and self.validated.get(name) != value
            and not _is_duplicate(name, metrics)
        }
        values = "  ".join(f"{name} {float(value):.4f}" for name, value in sorted(new.items()))
        line = "  ".join(part for part in (position, values, speed) if part)
        log.info("%s%s", self.prefix, line)


def _is_duplicate(name: str, metrics: dict[str, Tensor]) -> bool:
    """Whether it is the `loss_step` or `loss_epoch` that Lightning adds to `loss`."""
    return name.endswith(("_step", "_epoch")) and name.rpartition("_")[0] in metrics


def _learning_rate_names(trainer: pl.Trainer) -> set[str]:
    """The metrics of a LearningRateMonitor among the callbacks of the experiment."""
    monitors = [one for one in trainer.callbacks if isinstance(one, LearningRateMonitor)]  # type: ignore[attr-defined]  # it is there
    return {
        name
        for one in monitors
        for name in (*one.lrs, *one.last_momentum_values, *one.last_weight_decay_values)
    }


def _total_steps(trainer: pl.Trainer) -> float | None:
    steps = trainer.estimated_stepping_batches
    return steps if math.isfinite(steps) and steps > 0 else None


def _is_within_epoch(trainer: pl.Trainer) -> bool:
    """Whether a validation is within an epoch; one after the last batch is at its end."""
    is_fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
    return is_fitting and not trainer.is_last_batch


def _epoch_text(epoch: int, epochs: int | None) -> str:
    """`epoch 1/5`; `epoch 1` where max_epochs is unlimited."""
    return f"epoch {epoch}/{epochs}" if epochs is not None and epochs > 0 else f"epoch {epoch}"


class Throughput:
    """Counts the samples and the seconds of an epoch, without validations inside it."""

    NAMES = ("epoch_seconds", "samples_per_second", "batches_per_second")

    def __init__(self) -> None:
        self.batches, self.samples = 0, 0
        self.sizes_known = True  # the size of every batch so far
        self.seconds_before = 0.0  # up to the last pause
        self.started = self.last = time.monotonic()

    def count(self, samples: int | None) -> float:
        """Count a trained batch, whose size may be unknown. Returns the time, in seconds."""
        self.last = time.monotonic()
        self.batches += 1
        self.samples += samples or 0
        self.sizes_known = self.sizes_known and samples is not None
        return self.last

    def pause(self) -> None:
        self.seconds_before = self.seconds

    def resume(self) -> None:
        self.started = self.last = time.monotonic()

    @property
    def seconds(self) -> float:
        return self.seconds_before + self.last - self.started

    def metrics(self, processes: int) -> dict[str, float]:
        """`epoch_seconds` and `samples_per_second`; `batches_per_second` where sizes are unknown."""
        known = self.sizes_known
        name, count = ("samples", self.samples) if known else ("batches", self.batches)
        rate = count * processes / self.seconds if self.seconds else 0.0
        return {"epoch_seconds": self.seconds, f"{name}_per_second": rate}

    def text(self, processes: int) -> str:
        """`1.2 s  3,800 samples/s`"""
        (_, seconds), (name, rate) = self.metrics(processes).items()
        speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
        return f"{seconds:.3g} s  {speed} {name.removesuffix('_per_second')}/s"
