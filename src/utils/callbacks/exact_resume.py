"""Exact resuming: a training that was stopped and resumed ends with the weights that it would have had.

Lightning's checkpoints hold weights, optimizers, schedulers and loop counters. `ExactResume` adds random
states, the position in the data, accumulated gradients, what is frozen, and the sums of the epoch's metrics.
In a distributed training each process has its own.
"""

import io
import logging
import warnings
from pathlib import Path
from typing import Any

from src.utils.callbacks.checkpoints import LastCheckpoint
from src.utils.callbacks.epoch_sums import add_logged, epoch_sums, restore_sums
from src.utils.callbacks.resumable_loader import ResumableLoader, TrainingSource, inexact_reason
from src.utils.errors import UserError
from src.utils.run import Run

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities import move_data_to_device
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

KEY = "continuity"  # of the state in a checkpoint, as stored by earlier versions
OTHERS = "other_processes"  # of their states in it

log = logging.getLogger(__name__)
warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before")  # exactly


class ExactResume(pl.Callback):
    """Stores the additional state in each checkpoint, and restores it when a training is resumed.

    Metrics measured before a checkpoint are written before it, so that none is missing after a crash.

    Raises:
        UserError: the checkpoint was saved by a version that did not store the position in the data, or the
            processes of a distributed training have different ones.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.stored: dict[str, Any] = {}  # the state to resume from; empty when it is restored
        self.logged: dict[str, Any] = {}  # sums of the epoch that are still to be added
        self.at_epoch_end = False  # Lightning is in the hooks of an epoch's end

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        if stage == TrainerFn.FITTING:
            source = trainer.fit_loop._data_source
            trainer.fit_loop._data_source = TrainingSource(source.instance, source.name)
            _check_same_checkpoint(trainer, self.run.resume_from)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self.stored = _of_process(checkpoint.get(KEY, {}), trainer)
            if "data" not in self.stored:
                raise UserError(
                    "this checkpoint of an earlier version lacks the position in the data: "
                    "warm_start=RUN begins with its weights"
                )
            states = checkpoint["callbacks"]
            for state in states.values():  # the repository may have been moved since
                old = _old_folder(states, self.run)
                state.update(_relocated(state, old, str(self.run.folder)))

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """A training that something has ended early, such as EarlyStopping, does not begin again."""
        if self.stored.get("should_stop") and not self.run.more_epochs:
            trainer.should_stop = True

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        _warn_if_inexact(_loader(trainer))
        if self.stored:
            _restore(trainer, module, self.stored)
            self.logged = self.stored.get("logged", {})

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.at_epoch_end = False
        _loader(trainer).stored = None  # a new epoch begins with its first batch
        if self.stored:
            self._restore_random_states(trainer)
            _restart_fetcher(trainer)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.stored:
            self.stored = {}
            trainer.fit_loop.restarting = False  # else ReduceLROnPlateau misses this epoch

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.logged:
            add_logged(trainer, self.logged)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.at_epoch_end, self.logged = True, {}
        self._restore_random_states(trainer)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.at_epoch_end = False

    def on_fit_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.stored:  # the training had ended, so that Lightning has not begun it
            trainer._logger_connector._callback_metrics.update(self.stored["metrics"])
            self.stored = {}
            name = self.run.prefix.rstrip("/") or "the training"
            log.info("%s had ended at step %d", name, trainer.global_step)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self.at_epoch_end:  # Lightning would log them after the checkpoint
            step = trainer.fit_loop.epoch_loop._batches_that_stepped - 1
            metrics = trainer._logger_connector.metrics["log"]  # of this epoch, and no others
            self.run.log({**metrics, "epoch": trainer.current_epoch}, step)
        elif trainer.training and trainer._logger_connector._first_loop_iter is not None:
            # those of the step that has just been trained; the buffer ignores them the second time
            trainer._logger_connector.update_train_step_metrics()
        self.run.metrics.flush()
        if trainer.fit_loop._combined_loader is not None:
            checkpoint[KEY] = _current_state(trainer, module)
            if self.at_epoch_end:  # a new epoch begins with new sums
                checkpoint[KEY] |= {"torchmetrics": {}, "logged": {}}
                checkpoint[KEY]["should_stop"] = trainer.should_stop
            checkpoint[KEY] = _with_others(checkpoint[KEY], trainer)

    def _restore_random_states(self, trainer: pl.Trainer) -> None:
        """As late as possible, because setting up a training draws random numbers too."""
        if self.stored:
            _loader(trainer).set_random_states(self.stored["data"])
            self.stored = {}


def _current_state(trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Any]:
    prefetched = len(getattr(trainer.fit_loop._data_fetcher, "batches", []))
    return {
        "data": _loader(trainer).state(prefetched),
        "gradients": _accumulated_gradients(trainer, module),
        "frozen": [name for name, each in module.named_parameters() if not each.requires_grad],
        "statistics": _tracked_statistics(module),
        **epoch_sums(trainer, module),
        "metrics": dict(trainer.callback_metrics),
        "epoch": trainer.current_epoch,
        "epoch_ends": trainer.is_last_batch,
    }


def _check_same_checkpoint(trainer: pl.Trainer, file: Path | None) -> None:
    """On machines without a common disk, one may have an older checkpoint than another, or none."""
    if trainer.world_size == 1:
        return
    step = -1 if file is None else torch.load(file, mmap=True, weights_only=True)["global_step"]
    both = torch.tensor([step, -step], device=trainer.strategy.root_device)
    newest, oldest = trainer.strategy.reduce(both, reduce_op="max").tolist()
    if newest != -oldest:
        raise UserError(
            "the processes of this training have different checkpoints of the run to resume: their machines "
            "need a common disk for logs/"
        )


def _with_others(own: dict[str, Any], trainer: pl.Trainer) -> dict[str, Any]:
    """The state of this process, in rank zero with those of all others."""
    if trainer.world_size == 1:
        return own
    file = io.BytesIO()  # torch's own pickling of objects fails for some tensors
    torch.save(move_data_to_device(own, "cpu"), file)
    found: list[Any] | None = [None] * trainer.world_size if trainer.is_global_zero else None
    torch.distributed.gather_object(file.getvalue(), found)
    others = [torch.load(io.BytesIO(each), weights_only=True) for each in (found or [])[1:]]
    return own | {OTHERS: others}


def _of_process(stored: dict[str, Any], trainer: pl.Trainer) -> dict[str, Any]:
    """The state of this process in a checkpoint; that of rank zero where it was saved by fewer processes."""
    others = stored.pop(OTHERS, [])
    if len(others) != trainer.world_size - 1 and trainer.is_global_zero:
        log.warning(
            "resuming this run is not exact: its checkpoint was saved by %d processes, and there are %d",
            *(len(others) + 1, trainer.world_size),
        )
    return dict([stored, *others][min(trainer.global_rank, len(others))])


def _restore(trainer: pl.Trainer, module: pl.LightningModule, stored: dict[str, Any]) -> None:
    """Restore all but the random states; within an epoch, those and the data follow at the next batch."""
    restore_sums(trainer, module, stored)
    _unfreeze(module, stored)
    for name, gradient in stored["gradients"].items():
        parameter = module.get_parameter(name)
        parameter.grad = gradient.to(parameter.device)
    trainer._logger_connector._callback_metrics.update(stored["metrics"])
    if stored["epoch_ends"]:
        _step_plateau_schedulers(trainer, module, stored["epoch"])
    if trainer.fit_loop.restarted_mid_epoch:
        _loader(trainer).stored = stored["data"]
        _restart_fetcher(trainer)
    log.info("resuming from step %d, in epoch %d", trainer.global_step, trainer.current_epoch)


def _restart_fetcher(trainer: pl.Trainer) -> None:
    """Data without a length are prefetched by one batch, which happened before the state was restored."""
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None
    iter(fetcher)


def _step_plateau_schedulers(trainer: pl.Trainer, module: pl.LightningModule, epoch: int) -> None:
    """Lightning steps them after the checkpoint of an epoch, and does not when it resumes from that."""
    for config in trainer.lr_scheduler_configs:
        is_due = config.interval == "epoch" and (epoch + 1) % config.frequency == 0
        if config.reduce_on_plateau and is_due and config.monitor in trainer.callback_metrics:
            module.lr_scheduler_step(config.scheduler, trainer.callback_metrics[config.monitor])


def _tracked_statistics(module: pl.LightningModule) -> dict[str, bool]:
    """Of each normalization layer, whether it tracks the statistics of its batches: a frozen one does not."""
    layers = module.named_modules()
    return {
        name: each.track_running_stats for name, each in layers if hasattr(each, "running_mean")
    }


def _unfreeze(module: pl.LightningModule, stored: dict[str, Any]) -> None:
    """Freeze and unfreeze as before: Lightning's BaseFinetuning freezes what it had unfrozen."""
    if "frozen" not in stored:  # as stored by earlier versions
        return
    for name, parameter in module.named_parameters():
        parameter.requires_grad = name not in stored["frozen"]
    for name, is_tracked in stored["statistics"].items():
        module.get_submodule(name).track_running_stats = is_tracked


def _accumulated_gradients(trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Tensor]:
    """Gradients to which the next batch adds: with `accumulate_grad_batches`, or manual optimization."""
    if module.automatic_optimization and not trainer.fit_loop._should_accumulate():
        return {}
    parameters = module.named_parameters()
    return {name: each.grad for name, each in parameters if each.grad is not None}


def _loader(trainer: pl.Trainer) -> ResumableLoader:
    loader = trainer.fit_loop._combined_loader
    assert isinstance(loader, ResumableLoader)
    return loader


def _warn_if_inexact(loader: ResumableLoader) -> None:
    reasons = {reason for part in loader.flattened if (reason := inexact_reason(part))}
    if reasons:
        log.warning("resuming this run within an epoch is not exact: %s", "; ".join(reasons))


def _old_folder(states: dict[str, Any], run: Run) -> str:
    """The folder of the run's artifacts, as it was when the checkpoint was saved."""
    key = LastCheckpoint(run).state_key
    levels = len((run.checkpoints).relative_to(run.folder).parts)
    return str(Path(states[key]["dirpath"]).parents[levels - 1])


def _relocated(value: Any, old: str, new: str) -> Any:
    """The value with the folder `new` instead of `old` at the start of each path in it."""
    if isinstance(value, dict):
        return {
            _relocated(key, old, new): _relocated(part, old, new) for key, part in value.items()
        }
    return new + value[len(old) :] if isinstance(value, str) and value.startswith(old) else value
