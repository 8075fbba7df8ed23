"""Checkpoints: when one is made, and what is in it that Lightning doesn't put there."""

import inspect
import logging
import warnings
from pathlib import Path
from typing import Any

from src.utils.errors import UserError
from src.utils.resumable_loader import ResumableLoader, TrainingSource, inexact
from src.utils.run import Run

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

log = logging.getLogger(__name__)
warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before")  # exactly


def resumable(trainer: pl.Trainer) -> bool:
    """Whether training goes on exactly from a checkpoint made after this batch: not where a validation
    or the epoch's end follows, which Lightning would leave out."""
    loop = trainer.fit_loop
    fetcher = loop._data_fetcher
    assert fetcher is not None
    return not trainer.is_last_batch and not loop.epoch_loop._should_check_val_fx(fetcher)


class MidEpoch(Checkpoint):
    """Writes the last checkpoint every few steps, and not only at the end of an epoch."""

    def __init__(self, run: Run, every_n_train_steps: int) -> None:
        self.run, self.every = run, every_n_train_steps
        self.step = 0  # of the last one

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if resumable(trainer):
            self._save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if fitting and not trainer.is_last_batch:
            self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        if trainer.global_step // self.every > self.step // self.every:
            self.step = trainer.global_step
            trainer.save_checkpoint(self.run.checkpoints / "last.ckpt")


class FirstWeights(pl.Callback):
    """Begins with the weights of another run, and with nothing else of it."""

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        state = torch.load(self.checkpoint, map_location=module.device, weights_only=True)
        module.load_state_dict(state["state_dict"])


class NameModel(pl.Callback):
    """Writes into each checkpoint which class it belongs to, so that `load_model` need not be told."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_save_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        file = Path(inspect.getfile(type(module)))
        inside = file.is_relative_to(self.run.here.source)
        where = file.relative_to(self.run.here.source) if inside else type(module).__module__
        checkpoint["model_class"] = [str(where), type(module).__qualname__]


class Continuity(pl.Callback):
    """Keeps in each checkpoint what Lightning doesn't: random states, the place in the data, gradients
    that are still added up, and the sums of the epoch. What was measured before it is written first."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.kept: dict[str, Any] = {}
        self.epoch_ends = False

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        if stage == TrainerFn.FITTING:
            source = trainer.fit_loop._data_source
            trainer.fit_loop._data_source = TrainingSource(source.instance, source.name)

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.epoch_ends = False
        _loader(trainer).kept = None  # a new epoch begins with the first batch
        if self.kept:
            self._set_random_states(trainer)
            _fetch_anew(trainer)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.kept:
            self.kept = {}
            trainer.fit_loop.restarting = False  # else ReduceLROnPlateau misses this epoch

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.epoch_ends = True
        self._set_random_states(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self.epoch_ends:  # Lightning would log them after the checkpoint
            step = trainer.fit_loop.epoch_loop._batches_that_stepped - 1
            self.run.log(trainer.callback_metrics, step)
        self.run.metrics.flush()
        if trainer.fit_loop._combined_loader is not None:
            ahead = len(getattr(trainer.fit_loop._data_fetcher, "batches", []))
            checkpoint["continuity"] = {
                "data": _loader(trainer).state(ahead),
                "gradients": _gradients(trainer, module),
                "scores": {split: score.sums for split, score in _scores(module).items()},
                "metrics": dict(trainer.callback_metrics),
                "epoch": trainer.current_epoch,
                "epoch_ends": trainer.is_last_batch,
            }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self.kept = checkpoint.get("continuity", {})
            if "data" not in self.kept:
                raise UserError(
                    "this checkpoint lacks the place in the data: only fork=true can use it"
                )
            for state in checkpoint["callbacks"].values():
                if "dirpath" in state:  # the repository may lie elsewhere now
                    state.update(_moved(state, state["dirpath"], str(self.run.checkpoints)))

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        _warn_of_inexact(_loader(trainer))
        if self.kept:
            _go_on(trainer, module, self.kept)

    def _set_random_states(self, trainer: pl.Trainer) -> None:
        """As late as can be: setting up draws random numbers too."""
        if self.kept:
            _loader(trainer).set_random_states(self.kept["data"])
            self.kept = {}


def _go_on(trainer: pl.Trainer, module: pl.LightningModule, kept: dict[str, Any]) -> None:
    """As if there had been no stop. In the middle of an epoch the data come to their place, and the
    random states with them, when the first batch is asked for."""
    for split, sums in kept["scores"].items():
        _scores(module)[split].sums = sums
    for name, gradient in kept["gradients"].items():
        parameter = module.get_parameter(name)
        parameter.grad = gradient.to(parameter.device)
    trainer._logger_connector._callback_metrics.update(kept["metrics"])
    if kept["epoch_ends"]:
        _step_plateau_schedulers(trainer, module, kept["epoch"])
    if trainer.fit_loop.restarted_mid_epoch:
        _loader(trainer).kept = kept["data"]
        _fetch_anew(trainer)
    log.info("going on from step %d, in epoch %d", trainer.global_step, trainer.current_epoch)


def _fetch_anew(trainer: pl.Trainer) -> None:
    """Data without a length are fetched one batch ahead, and were when the trainer was set up."""
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None
    iter(fetcher)


def _step_plateau_schedulers(trainer: pl.Trainer, module: pl.LightningModule, epoch: int) -> None:
    """Lightning steps them after an epoch's checkpoint, and not at all when it goes on from that."""
    for config in trainer.lr_scheduler_configs:
        due = config.interval == "epoch" and (epoch + 1) % config.frequency == 0
        if config.reduce_on_plateau and due and config.monitor in trainer.callback_metrics:
            module.lr_scheduler_step(config.scheduler, trainer.callback_metrics[config.monitor])


def _gradients(trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Tensor]:
    """Those to which the next step adds: within `accumulate_grad_batches`, or as the module does."""
    if module.automatic_optimization and not trainer.fit_loop._should_accumulate():
        return {}
    named = module.named_parameters()
    return {name: one.grad for name, one in named if one.grad is not None}


def _warn_of_inexact(loader: ResumableLoader) -> None:
    reasons = {reason for one in loader.flattened if (reason := inexact(one))}
    if reasons:
        log.warning("resuming this run within an epoch is not exact: %s", "; ".join(reasons))


def _moved(value: Any, old: str, new: str) -> Any:
    """The same with another folder at the start of each path."""
    if isinstance(value, dict):
        return {_moved(key, old, new): _moved(one, old, new) for key, one in value.items()}
    return new + value[len(old) :] if isinstance(value, str) and value.startswith(old) else value


def _scores(module: pl.LightningModule) -> dict[str, Any]:
    """The sums (`src/utils/score.py`) that a module keeps by split, if it does."""
    return getattr(module, "scores", {})


def _loader(trainer: pl.Trainer) -> ResumableLoader:
    loader = trainer.fit_loop._combined_loader
    assert isinstance(loader, ResumableLoader)
    return loader
