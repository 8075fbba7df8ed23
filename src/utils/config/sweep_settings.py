"""The settings behind `-m`: hydra.sweeper, its pruners, and hydra.launcher. No imports that cost."""

from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from src.utils.errors import UserError

from hydra.core.config_store import ConfigStore
from hydra_plugins.hydra_optuna_sweeper.config import OptunaSweeperConf
from omegaconf import MISSING, DictConfig

MEDIAN = {"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": 4, "n_warmup_steps": 0}
PRUNERS: dict[str, dict[str, Any]] = {
    "default": MEDIAN,  # of a search; a grid has none unless one is chosen
    "median": MEDIAN,
    "percentile": {"_target_": "optuna.pruners.PercentilePruner", "percentile": 25.0},
    "halving": {"_target_": "optuna.pruners.SuccessiveHalvingPruner", "min_resource": 1},
    "hyperband": {"_target_": "optuna.pruners.HyperbandPruner", "min_resource": 1},
    "threshold": {"_target_": "optuna.pruners.ThresholdPruner", "lower": None, "upper": None},
    "wilcoxon": {"_target_": "optuna.pruners.WilcoxonPruner", "p_threshold": 0.1},
    "none": {"_target_": "optuna.pruners.NopPruner"},
}


# TPE as Optuna's maintainers set it. The plugin's `tpe` sets constant_liar and multivariate to false, and
# then trials that run at the same time are alike.
DEFAULT_SAMPLER = {"_target_": "optuna.samplers.TPESampler", "n_startup_trials": 10, "seed": None}
Mode = Literal["min", "max"]
DIRECTIONS: dict[Mode, str] = {"min": "minimize", "max": "maximize"}
MODES: dict[str, Mode] = {"minimize": "min", "maximize": "max"}


@dataclass
class SearchSweeperConf(OptunaSweeperConf):
    """The official Optuna sweeper's settings, and ours."""

    _target_: str = "src.utils.sweep.sweeper.SearchSweeper"
    defaults: list[Any] = field(
        default_factory=lambda: [{"sampler": "default"}, {"pruner": "default"}]
    )
    direction: Any = None  # None: as the setting `mode` says; else minimize, or maximize, or a list
    storage: str | None = "${oc.env:OPTUNA_STORAGE,null}"  # None: logs/optuna/optuna.db
    n_jobs: int | None = None  # type: ignore[assignment]  # None: as many as fit the machine
    max_failure_rate: float = 0.2  # of n_trials; more, and the sweep stops
    pruner: Any = MISSING
    max_retries: int = 1  # of a trial that failed; interrupted ones are always run again
    trial_timeout: float | None = None  # seconds


@dataclass
class ForkLauncherConf:
    """Ours; the sweeper tells it n_jobs."""

    _target_: str = "src.utils.sweep.launcher.ForkLauncher"
    n_jobs: int | None = None  # at a time, for sweepers that launch many; None: as fit the machine
    jobs_per_gpu: int = 1


@cache
def register() -> None:
    """Make them choosable: hydra/sweeper=search, hydra/launcher=fork, hydra/sweeper/pruner=…"""
    store = ConfigStore.instance()
    store.store("search", SearchSweeperConf, "hydra/sweeper", provider="jikken")
    store.store("fork", ForkLauncherConf, "hydra/launcher", provider="jikken")
    store.store("default", DEFAULT_SAMPLER, "hydra/sweeper/sampler", provider="jikken")
    for name, node in PRUNERS.items():
        store.store(name, node, "hydra/sweeper/pruner", provider="jikken")


def directions(config: DictConfig) -> list[str]:
    """The direction of each objective.

    Raises:
        UserError: a direction is none, or contradicts `mode`.
    """
    mode, asked = config.get("mode"), config.hydra.sweeper.direction
    if asked is None:
        return [DIRECTIONS.get(mode, "minimize")]
    names = _names(asked)
    wrong = [name for name in names if name not in MODES]
    if wrong or not names:
        said = ", ".join(wrong) or "[]"
        raise UserError(f"hydra.sweeper.direction={said} is refused: it is minimize or maximize")
    if len(names) == 1 and mode in DIRECTIONS and names[0] != DIRECTIONS[mode]:
        raise UserError(f"hydra.sweeper.direction={names[0]} {contradicts(mode, names[0])}")
    return names


def mode_of(mode: Mode | None, direction: Any) -> Mode:
    """Which way an objective is good: the setting `mode`, else hydra.sweeper.direction, else `min`."""
    if mode is None and direction is not None:
        return MODES.get(_names(direction)[0].lower(), "min")
    return mode or "min"


def contradicts(mode: Mode, direction: str) -> str:
    """What is wrong, and what to do."""
    return (
        f"contradicts mode={mode}, the way in which the monitored metric is good: set "
        f"mode={MODES[direction]} with a monitor that fits, or hydra.sweeper.direction={DIRECTIONS[mode]}"
    )


def _names(asked: Any) -> list[str]:
    several = [asked] if isinstance(asked, str) or not hasattr(asked, "__iter__") else asked
    return [getattr(one, "name", str(one)) for one in several]


# MERGED sweep/direction: Which way a study goes: it follows from `mode`, the way in which the monitored metric is good.
