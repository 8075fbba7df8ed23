"""Ctrl-C and SIGTERM during a training: save a checkpoint, then stop."""

import logging
import signal
import time
from typing import Any, NoReturn

from src.utils.callbacks.checkpoints import can_resume_after_batch
from src.utils.run import Run
from src.utils.terminal import print_from_signal_handler

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException

log = logging.getLogger(__name__)
ONE_REQUEST = 5.0  # seconds: a scheduler sends SIGTERM to a trial, and so does the trial's sweep


class Interruption(pl.Callback):
    """Stops a training after the current batch, with a checkpoint to resume from.

    Where a validation or the end of the epoch follows the batch, that is done first: Lightning would skip it
    when the run is resumed. A second signal stops at once. All processes of a distributed
    training stop, whichever of them has received the signal.

    Raises:
        KeyboardInterrupt: the training stops; `run.ended_by` is the signal.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.received: list[signal.Signals] = []
        self.asked = 0.0  # when
        self.received_by_any = 0  # the number of the signal
        self.previous_handlers: dict[signal.Signals, Any] = {}

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.world_size > 1:  # one process that ended here would leave the others waiting
            self._set_handlers()

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if not self.previous_handlers:
            self._set_handlers()

    def _set_handlers(self) -> None:
        handlers = self.previous_handlers
        handlers[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._handle_signal)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            handlers[signal.SIGINT] = signal.signal(signal.SIGINT, self._handle_signal)

    def _handle_signal(self, number: int, _: Any) -> None:
        now, is_first = time.monotonic(), not self.received
        if number == signal.SIGTERM and not is_first and now - self.asked < ONE_REQUEST:
            return
        self.asked = now
        self.received.append(signal.Signals(number))
        if not is_first:
            raise KeyboardInterrupt
        if self.run.is_rank_zero:
            print_from_signal_handler("stopping after this batch; Ctrl-C again stops now")

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self._should_stop(trainer) and can_resume_after_batch(trainer):
            trainer.save_checkpoint(self.run.checkpoints / "last.ckpt")
            self._stop()

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self._should_stop(trainer):
            self._stop()

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._restore_handlers()
        if self._should_stop(trainer):
            self._stop()

    def on_fit_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._restore_handlers()  # of a training that had ended, and has not begun again

    def on_exception(
        self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._restore_handlers()
        if isinstance(exception, SIGTERMException):  # it came before the first batch
            self.run.whole.ended_by = signal.SIGTERM
        elif isinstance(exception, KeyboardInterrupt):
            received = self.received_by_any or next(iter(self.received), signal.SIGINT)
            self.run.whole.ended_by = signal.Signals(received)

    def _should_stop(self, trainer: pl.Trainer) -> bool:
        """Whether any process has received a signal; all agree on which."""
        number = int(next(iter(self.received), 0))
        if trainer.world_size > 1:
            tensor = torch.tensor(number, device=trainer.strategy.root_device)
            number = int(trainer.strategy.reduce(tensor, reduce_op="max"))
        self.received_by_any = number
        return bool(number)

    def _stop(self) -> NoReturn:
        if self.run.is_rank_zero:
            log.warning("saved; resume_run=%s resumes it", self.run.id[:8])
        raise KeyboardInterrupt

    def _restore_handlers(self) -> None:
        for number, handler in self.previous_handlers.items():
            signal.signal(number, handler)
        self.previous_handlers.clear()
