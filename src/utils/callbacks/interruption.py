"""Trainings that are stopped, and go on later as if nothing had happened, bit for bit on a CPU."""

import logging
import random
import signal
from typing import Any, NoReturn

from src.utils.batches import BatchLoader
from src.utils.run import Run

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.exceptions import SIGTERMException

log = logging.getLogger(__name__)


class Interruption(pl.Callback):
    """Ctrl-C and SIGTERM end a training after its batch, with a checkpoint to go on from.

    An epoch whose last batch is trained is validated and saved first: from the place between,
    Lightning would go on with the next epoch.
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
        log.warning("stopping after this batch; once more stops at once")

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if not trainer.is_last_batch and self._is_asked(trainer):
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
        if trainer.world_size == 1:
            return asked
        return trainer.strategy.reduce_boolean_decision(asked, all=False)

    def _stop(self) -> NoReturn:
        log.warning("saved; go on with resume_run=%s", self.run.id[:8])
        raise KeyboardInterrupt

    def _let_go(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before.clear()


class Continuity(pl.Callback):
    """Keeps in each checkpoint what Lightning doesn't: random states, the place in the data, and
    the sums of the epoch. And whatever was measured before it is written first."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.kept: dict[str, Any] = {}
        self.epoch_ends = False

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.epoch_ends = False

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.epoch_ends = True

    def on_save_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self.epoch_ends:  # Lightning would log them after the checkpoint
            step = trainer.fit_loop.epoch_loop._batches_that_stepped - 1
            self.run.log(trainer.callback_metrics, step)
        self.run.metrics.flush()
        checkpoint["continuity"] = {
            "random": _random_state(),
            "loader": loader.state_dict() if (loader := _loader(trainer)) else None,
            "scores": {split: score.sums for split, score in _scores(module).items()},
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self.kept = checkpoint["continuity"]
            for state in checkpoint["callbacks"].values():
                if "dirpath" in state:  # the repository may lie elsewhere now
                    state.update(_moved(state, state["dirpath"], str(self.run.checkpoints)))

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if not self.kept:
            return
        for split, sums in self.kept["scores"].items():
            _scores(module)[split].sums = sums
        # Lightning would do this, but not for a module that asks how many steps there will be
        if (loader := _loader(trainer)) and self.kept["loader"]:
            loader.load_state_dict(self.kept["loader"])

    def on_train_batch_start(self, *_: Any) -> None:
        if self.kept:  # as late as can be: setting up draws random numbers too
            _set_random_state(self.kept["random"])
            self.kept = {}


def _moved(value: Any, old: str, new: str) -> Any:
    """The same with another folder at the start of each path."""
    if isinstance(value, dict):
        return {_moved(key, old, new): _moved(one, old, new) for key, one in value.items()}
    return new + value[len(old) :] if isinstance(value, str) and value.startswith(old) else value


def _scores(module: pl.LightningModule) -> dict[str, Any]:
    """The sums (`src/utils/score.py`) that a module keeps by split, if it does."""
    return getattr(module, "scores", {})


def _loader(trainer: pl.Trainer) -> BatchLoader | None:
    """The training data, if they can say where they are."""
    return trainer.train_dataloader if isinstance(trainer.train_dataloader, BatchLoader) else None


def _random_state() -> dict[str, Any]:
    """Of torch, its GPUs, NumPy and Python, as plain values: checkpoints hold no code."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002  # the one that libraries use
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest],
        "python": random.getstate(),
    }


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002  # as above
    random.setstate(state["python"])
