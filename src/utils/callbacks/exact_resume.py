"""What a checkpoint needs beside what Lightning puts there, so that a training goes on exactly."""

import logging
import warnings
from typing import Any

from src.utils.callbacks.resumable_loader import ResumableLoader, TrainingSource, inexact
from src.utils.errors import UserError
from src.utils.metrics import LossAndAccuracy
from src.utils.run import Run

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

log = logging.getLogger(__name__)
warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before")  # exactly


class ExactResume(pl.Callback):
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

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.epoch_ends = False

    def on_save_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self.epoch_ends:  # Lightning would log them after the checkpoint
            step = trainer.fit_loop.epoch_loop._batches_that_stepped - 1
            metrics = trainer._logger_connector.metrics["log"]  # of this epoch, and no others
            self.run.log({**metrics, "epoch": trainer.current_epoch}, step)
        self.run.metrics.flush()
        if trainer.fit_loop._combined_loader is not None:
            ahead = len(getattr(trainer.fit_loop._data_fetcher, "batches", []))
            checkpoint["continuity"] = {
                "data": _loader(trainer).state(ahead),
                "gradients": _gradients(trainer, module),
                "scores": {name: score.sums for name, score in _scores(module).items()},
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
                    "this checkpoint of an earlier version lacks the position in the data: warm_start= begins with its weights"
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
    for name, score in _scores(module).items():
        score.sums = kept["scores"].get(name)
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


def _scores(module: pl.LightningModule) -> dict[str, LossAndAccuracy]:
    """The Scores that a module has, each alone or in a dict of them."""
    found: dict[str, object] = {}
    for name, value in vars(module).items():
        several = value if isinstance(value, dict) else {"": value}
        found |= {f"{name}.{key}": one for key, one in several.items()}
    return {name: one for name, one in found.items() if isinstance(one, LossAndAccuracy)}


def _loader(trainer: pl.Trainer) -> ResumableLoader:
    loader = trainer.fit_loop._combined_loader
    assert isinstance(loader, ResumableLoader)
    return loader
