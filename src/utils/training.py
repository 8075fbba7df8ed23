"""The Lightning trainer of a run: `tracked_trainer(run, cfg)`.

Its metrics go to the run, and its checkpoints to the folder of the run. It resumes exactly, and it stops with
a checkpoint on Ctrl-C. After `fit`, `best_checkpoint` and `best_score` say which epoch was best.
"""

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
    WholeFiles,
)
from src.utils.callbacks.checks import (
    ONE_FIT,
    CheckEnd,
    CheckLoading,
    CheckModes,
    CheckSchedule,
    SingleFit,
)
from src.utils.callbacks.exact_resume import ExactResume
from src.utils.callbacks.interruption import Interruption
from src.utils.callbacks.logger import RunLogger
from src.utils.callbacks.progress import Progress
from src.utils.callbacks.pruning import Pruning
from src.utils.callbacks.ranks import end_together
from src.utils.callbacks.step_metrics import StepLearningRate, StepLoss
from src.utils.config.cluster import with_environment
from src.utils.config.sweep_settings import Mode
from src.utils.config.trainer_arguments import trainer_arguments
from src.utils.errors import UserError
from src.utils.paths import LOGS
from src.utils.run import Run
from src.utils.settings import TrainingSettings

import pytorch_lightning as pl
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.callbacks import ModelCheckpoint, ProgressBar
from pytorch_lightning.profilers import Profiler
from torch.nn import Module, ModuleDict, ModuleList

# Where they differ from Lightning's own; the setting `trainer` comes before them.
# One batch is validated before the training: it shows whether the monitored metric exists.
TRAINER_DEFAULTS = {"enable_model_summary": False, "num_sanity_val_steps": 1}

for _name in ("pytorch_lightning", "lightning_fabric"):
    logging.getLogger(_name).setLevel(logging.WARNING)  # no banners and tips
warnings.filterwarnings("ignore", r"`isinstance\(treespec")  # this Lightning with a newer torch
warnings.filterwarnings("ignore", "The `srun` command is available")  # tracked_trainer chooses
warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")  # resumed
warnings.filterwarnings("ignore", "It is recommended to use .*sync_dist")  # LossAndAccuracy does it
warnings.filterwarnings("ignore", "The number of training batches .* is smaller than the logging")
warnings.filterwarnings("ignore", "The '.*_dataloader' does not have many workers")  # in memory


def tracked_trainer(
    run: Run,
    cfg: TrainingSettings,
    monitor: str | None = None,
    mode: Mode | None = None,
    callbacks: Sequence[pl.Callback] = (),
) -> pl.Trainer:
    """Make a trainer that logs to a run and saves the best and the last checkpoint there.

    Args:
        run: the run that it belongs to, or a part of one: `run.part("fold0")`.
        cfg: the settings; `cfg.trainer` are arguments of Lightning's Trainer.
        monitor: the metric that decides which checkpoint is best; None means the setting `monitor`.
        mode: `min` or `max`; None means the setting `mode`.
        callbacks: more Lightning callbacks, called after those of this function.

    Raises:
        UserError: the settings are not those of a Lightning training; the run has a trainer already; there is
            a monitor without a mode; or the study of the trial optimizes in the other direction.
    """
    if not hasattr(cfg, "trainer"):
        raise UserError(
            "tracked_trainer needs class Config(TrainingSettings), and /training in config.yaml"
        )
    if run.has_trainer:
        raise UserError(ONE_FIT)
    run.has_trainer = True
    monitor, mode = _monitor_and_mode(cfg, monitor, mode)
    if monitor is not None:
        run.objective(monitor, mode)
    has_bar = any(isinstance(callback, ProgressBar) for callback in callbacks)  # else Progress's
    defaults = {
        **TRAINER_DEFAULTS,
        "profiler": NoProfiler(),
        "enable_progress_bar": has_bar,
        "plugins": [WholeFiles()],
    }
    trainer = pl.Trainer(
        **with_environment({**defaults, **trainer_arguments(cfg.trainer)}),
        logger=RunLogger(run),
        callbacks=[*_callbacks(run, cfg, monitor, mode), *callbacks],
        default_root_dir=LOGS / "lightning",
    )
    rank_zero_only.rank = trainer.global_rank  # type: ignore[attr-defined]  # a variable of Slurm may say another
    end_together(trainer, run)
    return trainer


def _monitor_and_mode(
    cfg: TrainingSettings, monitor: str | None, mode: Mode | None
) -> tuple[str | None, Mode]:
    monitor, mode = monitor or cfg.monitor, mode or cfg.mode
    if monitor is None:
        return None, "min"
    if mode is None:
        raise UserError(f"monitor={monitor} needs mode=min or mode=max: set both, in config.yaml")
    return monitor, mode


def _callbacks(
    run: Run, cfg: TrainingSettings, monitor: str | None, mode: Mode
) -> Iterator[pl.Callback]:
    """The callbacks of every tracked trainer, in the order in which Lightning calls them."""
    log_every = cfg.trainer.get("log_every_n_steps", 50)
    yield SingleFit()
    if cfg.compile:
        yield Compile()
    if monitor is not None:
        yield CheckModes(monitor, mode)
        yield BestCheckpoint(run, monitor, mode)
    yield LastCheckpoint(run)
    if cfg.checkpoint_every:
        yield StepCheckpoint(run, cfg.checkpoint_every)
    yield StepLearningRate(run, log_every)
    yield SaveModelClass(run)
    yield CheckLoading(run)
    yield CheckEnd()
    if run.more_epochs:
        yield CheckSchedule()
    if run.weights_from:
        yield InitialWeights(run.weights_from)
    yield StepLoss(run, log_every)
    yield ExactResume(run)
    yield Progress(run.prefix, bar="enable_progress_bar" not in cfg.trainer)
    yield Interruption(run)
    if monitor is not None and run.trial is not None and run.trial.n_objectives == 1:
        yield Pruning(run, monitor)


def best_checkpoint(trainer: pl.Trainer) -> ModelCheckpoint:
    """The callback that saved `best.ckpt`, with the path of the file as its `best_model_path`.

    Where the monitored metric was never measured, it is the callback that saved `last.ckpt`.
    """
    saved = [one for one in trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint)]
    ours = [one for kind in (BestCheckpoint, LastCheckpoint) for one in saved if type(one) is kind]
    return next((one for one in ours if one.best_model_path), ours[-1])


def best_score(trainer: pl.Trainer) -> float:
    """The best value of the monitored metric; NaN where it was never measured."""
    score = best_checkpoint(trainer).best_model_score
    return math.nan if score is None else float(score)


class Compile(pl.Callback):
    """Compiles the networks of a module in place (compile=true), so that the names of the weights stay."""

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            for network in list(_networks(module)) or [module]:
                network.compile()


def _networks(module: Module) -> Iterator[Module]:
    """The children with parameters; of a ModuleDict or ModuleList, which has no `forward`, its children."""
    for child in module.children():
        if isinstance(child, ModuleDict | ModuleList):
            yield from _networks(child)
        elif any(True for _ in child.parameters()):
            yield child


class NoProfiler(Profiler):
    """A profiler that does nothing.

    Lightning calls its profiler 70 times a step; its own PassThroughProfiler takes 0.2 ms for that.
    """

    _nothing = nullcontext()

    def profile(self, action_name: str) -> nullcontext[None]:  # type: ignore[override]  # a generator there
        return self._nothing

    def start(self, action_name: str) -> None:
        """Do nothing."""

    def stop(self, action_name: str) -> None:
        """Do nothing."""
