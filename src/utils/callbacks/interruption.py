"""Trainings that are told to stop."""

import logging
import signal
from typing import Any, NoReturn

from src.utils.callbacks.checkpoints import resumable
from src.utils.run import Run
from src.utils.terminal import print_from_signal_handler

import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import SIGTERMException

log = logging.getLogger(__name__)


class Interruption(pl.Callback):
    """Ctrl-C and SIGTERM end a training after its batch, with a checkpoint to go on from.

    Where a validation or the epoch's end follows, that comes first: from the place between, Lightning
    would go on without it.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.asked: list[signal.Signals] = []
        self.before: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._ask)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self.before[signal.SIGINT] = signal.signal(signal.SIGINT, self._ask)

    def _ask(self, number: int, _: Any) -> None:
        self.asked.append(signal.Signals(number))
        if len(self.asked) > 1:
            raise KeyboardInterrupt
        print_from_signal_handler("stopping after this batch; once more stops at once")

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self._is_asked(trainer) and resumable(trainer):
            trainer.save_checkpoint(self.run.checkpoints / "last.ckpt")
            self._stop()

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self._is_asked(trainer):
            self._stop()

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._let_go()
        if self._is_asked(trainer):
            self._stop()

    def on_exception(
        self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._let_go()
        if isinstance(exception, SIGTERMException):  # it came before the first batch
            self.run.ended_by = signal.SIGTERM
        elif isinstance(exception, KeyboardInterrupt):
            self.run.ended_by = self.asked[0] if self.asked else signal.SIGINT

    def _is_asked(self, trainer: pl.Trainer) -> bool:
        """All processes of a distributed training stop when one of them is told to."""
        asked = bool(self.asked)
        alone = trainer.world_size == 1
        return asked if alone else trainer.strategy.reduce_boolean_decision(asked, all=False)

    def _stop(self) -> NoReturn:
        log.warning("saved; go on with resume_run=%s", self.run.id[:8])
        raise KeyboardInterrupt

    def _let_go(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before.clear()
