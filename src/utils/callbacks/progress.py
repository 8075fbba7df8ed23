"""What a training looks like from outside: a bar on a terminal, and a line an epoch everywhere."""

import logging
import time
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.utilities.rank_zero import rank_zero_only
from rich import get_console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

log = logging.getLogger(__name__)
REFRESH = 0.2  # seconds between two looks of the bar


class Progress(pl.Callback):
    """Shows the epochs and times them (`epoch_seconds`, `samples_per_second`, without validation).

    bar: False where Lightning's own is chosen, or none
    """

    def __init__(self, bar: bool = True) -> None:
        self.with_bar = bar

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.seen, self.began, self.trained, self.shown = 0, time.monotonic(), 0.0, 0.0
        self.unreported = False
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
        steps = trainer.num_training_batches * (trainer.max_epochs or 1)
        self.task = self.bar.add_task("training", total=steps, completed=trainer.global_step)

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._report(trainer)
        self.seen, self.began = 0, time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        self.trained = time.monotonic()
        self.seen += len(batch[0])
        if self.trained - self.shown > REFRESH and not self.bar.disable:
            self.shown = self.trained
            loss = f"loss {outputs['loss'].item():.4f}"
            self.bar.update(self.task, completed=trainer.global_step, description=loss)
            self.bar.refresh()

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        seconds = self.trained - self.began
        rate = self.seen * trainer.world_size / seconds
        module.log_dict({"epoch_seconds": seconds, "samples_per_second": rate})
        self.unreported = True

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._report(trainer)
        self.bar.stop()

    def on_exception(
        self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException
    ) -> None:
        if hasattr(self, "bar"):
            self.bar.stop()

    @rank_zero_only
    def _report(self, trainer: pl.Trainer) -> None:
        """The line of an epoch, once Lightning has all of its metrics."""
        if not self.unreported:
            return
        self.unreported = False
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        seconds, rate = metrics.pop("epoch_seconds"), metrics.pop("samples_per_second")
        values = "  ".join(
            f"{name} {value:.4f}" for name, value in sorted(metrics.items()) if name != "lr"
        )
        epoch = f"epoch {trainer.current_epoch}/{trainer.max_epochs}"
        log.info("%s  %s  %.3g s  %s samples/s", epoch, values, seconds, f"{rate:,.0f}")
