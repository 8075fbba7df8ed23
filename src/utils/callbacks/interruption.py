"""Trainings that are stopped, and go on later as if nothing had happened, bit for bit on a CPU."""

import logging
import random
import signal
from typing import Any

from src.utils.batches import BatchLoader
from src.utils.run import Run

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.exceptions import SIGTERMException

log = logging.getLogger(__name__)


class Interruption(pl.Callback):
    """Ctrl-C and SIGTERM end a training after its batch, with a checkpoint to go on from."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.asked = 0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.run.training = True
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._ask)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.run.training = False
        if signal.getsignal(signal.SIGINT) == self._ask:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _ask(self, *_: Any) -> None:
        self.asked += 1
        if self.asked > 1:
            raise KeyboardInterrupt
        log.warning("stopping after this batch; Ctrl-C again stops at once")

    def on_train_batch_end(self, *_: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt

    def on_exception(
        self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException
    ) -> None:
        self.run.training = False
        if isinstance(exception, KeyboardInterrupt):
            self.run.ended_by = signal.SIGINT
        if isinstance(exception, SIGTERMException):
            self.run.ended_by = signal.SIGTERM
        if self.asked == 1 or isinstance(exception, SIGTERMException):  # between two batches
            trainer.save_checkpoint(self.run.checkpoints / "last.ckpt")
            log.warning("saved; go on with resume_run=%s", self.run.id[:8])


class Continuity(pl.Callback):
    """Keeps in each checkpoint what Lightning doesn't: random states, the place in the data, and
    the sums of the epoch."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.kept: dict[str, Any] = {}

    def on_save_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
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
