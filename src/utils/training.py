"""A Lightning trainer that tells the run everything."""

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext

from src.utils.callbacks.checkpoints import (
    BestCheckpoint,
    InitialWeights,
    LastCheckpoint,
    SaveModelClass,
    StepCheckpoint,
)
from src.utils.callbacks.checks import ONE_TRAINING, CheckLoading, CheckSchedule, SingleFit
from src.utils.callbacks.exact_resume import ExactResume
from src.utils.callbacks.interruption import Interruption
from src.utils.callbacks.logger import RunLogger
from src.utils.callbacks.progress import Progress
from src.utils.callbacks.step_metrics import LearningRateOfStep, LossOfStep
from src.utils.config.sweep_settings import Mode
from src.utils.config.trainer_arguments import trainer_arguments
from src.utils.errors import UserError
from src.utils.paths import LOGS
from src.utils.run import Run
from src.utils.runs.metric_buffer import legal
from src.utils.settings import TrainingSettings

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint, ProgressBar
from pytorch_lightning.profilers import Profiler
from torch.nn import Module, ModuleDict, ModuleList

logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # its banners and tips
warnings.filterwarnings("ignore", r"`isinstance\(treespec")  # Lightning, with today's torch
warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")  # resumed
warnings.filterwarnings("ignore", "It is recommended to use .*sync_dist")  # Score adds them up
warnings.filterwarnings("ignore", "The number of training batches .* is smaller than the logging")
warnings.filterwarnings("ignore", "The '.*_dataloader' does not have many workers")  # in memory


# Other than Lightning's own defaults, unless `trainer` says otherwise
OURS = {"enable_model_summary": False, "num_sanity_val_steps": 0}


def tracked_trainer(
    run: Run,
    cfg: TrainingSettings,
    monitor: str | None = None,
    mode: Mode | None = None,
    callbacks: Sequence[pl.Callback] = (),
) -> pl.Trainer:
    """A trainer whose metrics and checkpoints belong to `run`; by `monitor` the best one is kept.

    monitor, mode: before the settings of the same names

    Raises:
        UserError: the run has a trainer already, or the study of the trial goes the other way.
    """
    if run.has_trainer:
        raise UserError(ONE_TRAINING)
    run.has_trainer = True
    monitor, mode = _monitored(run, cfg, monitor, mode)
    if run.is_rank_zero and monitor is not None:
        run.tag({"monitor": f"{legal(monitor)} {mode}"})  # what leaderboards sort by
    every = cfg.trainer.get("log_every_n_steps", 50)
    own_bar = any(isinstance(one, ProgressBar) for one in callbacks)  # else ours
    ours = {"profiler": NoProfiler(), **OURS, "enable_progress_bar": own_bar}
    return pl.Trainer(
        **{**ours, **trainer_arguments(cfg.trainer)},
        logger=RunLogger(run),
        callbacks=[
            SingleFit(),
            *([Compile()] if cfg.compile else []),
            *([BestCheckpoint(run, monitor, mode)] if monitor is not None else []),
            LastCheckpoint(run),
            *_every(run, cfg.checkpoint_every),
            LearningRateOfStep(run, every),
            SaveModelClass(run),
            CheckLoading(run),
            *([CheckSchedule()] if run.more_epochs else []),
            *([InitialWeights(run.weights_from)] if run.weights_from else []),
            LossOfStep(run, every),
            ExactResume(run),
            Progress(bar="enable_progress_bar" not in cfg.trainer),
            Interruption(run),
            *(_pruning(run, monitor) if monitor is not None else []),
            *callbacks,
        ],
        default_root_dir=LOGS / "lightning",
    )


def _monitored(
    run: Run, cfg: TrainingSettings, monitor: str | None, mode: Mode | None
) -> tuple[str | None, Mode]:
    """What is monitored, if anything, and which way it is good; a search has to go that way."""
    monitor, mode = monitor or cfg.monitor, mode or cfg.mode
    if monitor is None:
        return None, "min"
    if mode is None:
        raise UserError(f"monitor={monitor} needs mode=min or mode=max: set both, in config.yaml")
    if run.trial is not None and run.is_rank_zero:
        run.trial.check_direction(mode)
    return monitor, mode


def _pruning(run: Run, monitor: str) -> list[pl.Callback]:
    """In a trial with one objective: ask the pruner."""
    if run.trial is None or run.trial.n_objectives > 1:
        return []
    from src.utils.callbacks.pruning import Pruning  # late: only trials need Optuna

    return [Pruning(run.trial.open() if run.is_rank_zero else None, monitor)]


def _every(run: Run, steps: int | None) -> list[pl.Callback]:
    """The last checkpoint more often than once an epoch."""
    return [StepCheckpoint(run, steps)] if steps else []


def best_checkpoint(trainer: pl.Trainer) -> ModelCheckpoint:
    """The best one, with its `best_model_path`; the last one where nothing was measured."""
    kept = [one for one in trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint)]
    order = [one for kind in (BestCheckpoint, LastCheckpoint) for one in kept if type(one) is kind]
    return next((one for one in order if one.best_model_path), order[-1])


def best_score(trainer: pl.Trainer) -> float:
    """The best value of the monitored metric; NaN where it was never measured."""
    score = best_checkpoint(trainer).best_model_score
    return math.nan if score is None else float(score)


class Compile(pl.Callback):
    """Compiles the networks of the module in place, so that the names of the weights stay."""

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            for network in list(_networks(module)) or [module]:
                network.compile()


def _networks(module: Module) -> Iterator[Module]:
    """The parts with weights that are called as functions, which containers are not."""
    for part in module.children():
        if isinstance(part, ModuleDict | ModuleList):
            yield from _networks(part)
        elif any(True for _ in part.parameters()):
            yield part


class NoProfiler(Profiler):
    """Lightning asks its profiler seventy times a step; its own way of doing nothing takes 0.2 ms."""

    _nothing = nullcontext()

    def profile(self, action_name: str) -> nullcontext[None]:  # type: ignore[override]  # a generator there
        return self._nothing

    def start(self, action_name: str) -> None:
        """Nothing."""

    def stop(self, action_name: str) -> None:
        """Nothing."""


# MERGED callbacks/profiler: Doing nothing, seventy times a step.
