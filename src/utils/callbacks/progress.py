"""What a training looks like from outside: a bar on a terminal, and a line an epoch everywhere."""

import logging
import math
import time
from typing import Any

from src.utils.callbacks.step_metrics import batch_size, loss_of, step_of

import pytorch_lightning as pl
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.trainer.states import TrainerFn
from rich import get_console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from torch import Tensor

log = logging.getLogger(__name__)
REFRESH = 0.2  # seconds between two looks of the bar


class Throughput:
    """Counts the samples and the seconds of an epoch, less its validations."""

    NAMES = ("epoch_seconds", "samples_per_second", "batches_per_second")

    def __init__(self) -> None:
        self.batches, self.samples = 0, 0
        self.counted = True  # whether the size of each batch is known
        self.before = 0.0  # seconds until the last pause
        self.began = self.last = time.monotonic()

    def count(self, samples: int | None) -> float:
        """A batch is trained; returns the time, in seconds."""
        self.last = time.monotonic()
        self.batches += 1
        self.samples += samples or 0
        self.counted = self.counted and samples is not None
        return self.last

    def pause(self) -> None:
        self.before = self.seconds

    def go_on(self) -> None:
        self.began = self.last = time.monotonic()

    @property
    def seconds(self) -> float:
        return self.before + self.last - self.began

    def metrics(self, processes: int) -> dict[str, float]:
        """`epoch_seconds`, and `samples_per_second`; batches where their sizes are not known."""
        name, count = ("samples", self.samples) if self.counted else ("batches", self.batches)
        rate = count * processes / self.seconds if self.seconds else 0.0
        return {"epoch_seconds": self.seconds, f"{name}_per_second": rate}

    def text(self, processes: int) -> str:
        """`1.2 s  3,800 samples/s`"""
        (_, seconds), (name, rate) = self.metrics(processes).items()
        speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
        return f"{seconds:.3g} s  {speed} {name.removesuffix('_per_second')}/s"


class Progress(pl.Callback):
    """Shows the epochs and times them (`epoch_seconds`, `samples_per_second`, without validation).

    bar: False where Lightning's own is chosen, or none
    """

    def __init__(self, bar: bool = True) -> None:
        self.with_bar = bar

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.throughput, self.shown = Throughput(), 0.0
        self.epoch_ended = False
        self.told: dict[str, Tensor] = {}
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=get_console(),
            transient=True,
            auto_refresh=False,
            disable=not (self.with_bar and get_console().is_terminal and trainer.is_global_zero),
        )
        self.bar.start()
        done = step_of(trainer) - 1
        self.task = self.bar.add_task("training", total=_total(trainer), completed=done)

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._report_epoch(trainer)
        self.throughput = Throughput()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        now = self.throughput.count(batch_size(batch))
        if now - self.shown > REFRESH and not self.bar.disable:
            self.shown = now
            loss = loss_of(outputs)
            text = "training" if loss is None else f"loss {loss.item():.4f}"
            self.bar.update(self.task, completed=step_of(trainer), description=text)
            self.bar.refresh()

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if _inside_epoch(trainer):
            self.throughput.pause()

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if _inside_epoch(trainer):
            self.throughput.go_on()
            epoch = _of(trainer.current_epoch + 1, trainer.max_epochs)
            self._say(trainer, f"{epoch}  step {step_of(trainer)}", "")

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        module.log_dict(self.throughput.metrics(trainer.world_size))
        self.epoch_ended = True

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._report_epoch(trainer)
        self.bar.stop()

    def on_exception(
        self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException
    ) -> None:
        if hasattr(self, "bar"):
            self.bar.stop()

    def _report_epoch(self, trainer: pl.Trainer) -> None:
        """The line of an epoch, once Lightning has all of its metrics."""
        if self.epoch_ended:
            self.epoch_ended = False
            epoch = _of(trainer.current_epoch, trainer.max_epochs)
            self._say(trainer, epoch, self.throughput.text(trainer.world_size))

    @rank_zero_only
    def _say(self, trainer: pl.Trainer, moment: str, speed: str) -> None:
        """A line with the metrics that are new since the one before."""
        metrics, before = dict(trainer.callback_metrics), self.told
        self.told = metrics
        hidden = {*Throughput.NAMES, *_learning_rates(trainer)}
        new = {
            name: value
            for name, value in metrics.items()
            if name not in hidden and before.get(name) is not value and not _is_form(name, metrics)
        }
        values = "  ".join(f"{name} {float(value):.4f}" for name, value in sorted(new.items()))
        log.info("%s", "  ".join(part for part in (moment, values, speed) if part))


def _is_form(name: str, metrics: dict[str, Tensor]) -> bool:
    """Whether it is `loss_step` or `loss_epoch` beside `loss`, as Lightning names its two forms."""
    return name.endswith(("_step", "_epoch")) and name.rpartition("_")[0] in metrics


def _total(trainer: pl.Trainer) -> float | None:
    """How many steps there will be, if that is known."""
    steps = trainer.estimated_stepping_batches
    return steps if math.isfinite(steps) and steps > 0 else None


def _inside_epoch(trainer: pl.Trainer) -> bool:
    """Whether a validation is one inside an epoch of a training; its last batch ends an epoch."""
    fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
    return fitting and not trainer.is_last_batch


def _of(epoch: int, epochs: int | None) -> str:
    """`epoch 1/5`; `epoch 1` where their number is open."""
    return f"epoch {epoch}/{epochs}" if epochs is not None and epochs > 0 else f"epoch {epoch}"


def _learning_rates(trainer: pl.Trainer) -> set[str]:
    """What a LearningRateMonitor of the experiment puts among the metrics."""
    monitors = [one for one in trainer.callbacks if isinstance(one, LearningRateMonitor)]  # type: ignore[attr-defined]  # it is there
    return {
        name
        for one in monitors
        for name in (*one.lrs, *one.last_momentum_values, *one.last_weight_decay_values)
    }


# MERGED callbacks/throughput: How fast an epoch is trained.
