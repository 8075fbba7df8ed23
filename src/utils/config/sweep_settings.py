"""The settings of a sweep (-m): hydra.sweeper, its samplers and pruners, hydra.launcher, and the direction.

The direction of a study follows from the setting `mode`, which says whether a lower or a higher value of
the monitored metric is better. This file imports nothing that is slow to import, such as Optuna.
"""

from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Literal, get_type_hints

from src.utils.errors import UserError

from hydra.core.config_store import ConfigStore
from hydra_plugins.hydra_optuna_sweeper.config import OptunaSweeperConf
from omegaconf import MISSING, DictConfig
from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
)

Mode = Literal["min", "max"]
DIRECTIONS: dict[Mode, str] = {"min": "minimize", "max": "maximize"}
MODES: dict[str, Mode] = {"minimize": "min", "maximize": "max"}

NUMBERS = ("n_trials", "n_jobs", "max_failure_rate", "max_retries", "trial_timeout")

# TPE as Optuna's maintainers set it. The plugin's `tpe` sets constant_liar and multivariate to false, and
# then trials that run at the same time are alike.
DEFAULT_SAMPLER = {"_target_": "optuna.samplers.TPESampler", "n_startup_trials": 10, "seed": None}
MEDIAN = {"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": 4, "n_warmup_steps": 0}
PRUNERS: dict[str, dict[str, Any]] = {
    "default": MEDIAN,  # a grid has no pruner unless the user chooses one
    "median": MEDIAN,
    "percentile": {"_target_": "optuna.pruners.PercentilePruner", "percentile": 25.0},
    "halving": {"_target_": "optuna.pruners.SuccessiveHalvingPruner", "min_resource": 1},
    "hyperband": {"_target_": "optuna.pruners.HyperbandPruner", "min_resource": 1},
    "threshold": {"_target_": "optuna.pruners.ThresholdPruner", "lower": None, "upper": None},
    "wilcoxon": {"_target_": "optuna.pruners.WilcoxonPruner", "p_threshold": 0.1},
    "none": {"_target_": "optuna.pruners.NopPruner"},
}


@dataclass
class SearchSweeperConf(OptunaSweeperConf):
    """hydra/sweeper=search: the settings of the official Optuna sweeper, and more."""

    _target_: str = "src.utils.sweep.sweeper.SearchSweeper"
    defaults: list[Any] = field(
        default_factory=lambda: [{"sampler": "default"}, {"pruner": "default"}]
    )
    # Trials of the whole study, over all its processes and times of resuming it
    n_trials: PositiveInt = 20
    # Trials that run at the same time; null: as many as fit the machine
    n_jobs: PositiveInt | None = None  # type: ignore[assignment]  # always a number there
    # How the next values are chosen: hydra/sweeper/sampler=NAME, then its own settings
    sampler: Any = MISSING
    # When a trial is ended early: hydra/sweeper/pruner=NAME, then its own settings
    pruner: Any = MISSING
    # minimize, maximize, or a list of them for several objectives; null: as the setting mode
    direction: Any = None
    # Name of the study: processes with the same one share its trials; null: one from the time and the ranges
    study_name: str | None = None
    # URL of the database of studies; null: logs/optuna/optuna.db
    storage: str | None = "${oc.env:OPTUNA_STORAGE,null}"
    # Ranges, as on the command line: {hidden: "range(32,256)"}
    params: dict[str, str] | None = None
    # Function (cfg, trial) that suggests more values: a dotted name, or the name of one in the program
    custom_search_space: str | None = None
    # Part of n_trials that may fail; if more do, the sweep stops
    max_failure_rate: Annotated[float, Field(ge=0, le=1)] = 0.2
    # How often a failed trial is tried again; interrupted ones always are
    max_retries: NonNegativeInt = 1
    # Seconds after which a trial is ended as failed; null: never
    trial_timeout: PositiveFloat | None = None


@dataclass
class ForkLauncherConf:
    """hydra/launcher=fork. The search sweeper's own n_jobs takes precedence."""

    _target_: str = "src.utils.sweep.launcher.ForkLauncher"
    # Jobs at a time, also the members of a group; null: as many as fit the machine
    n_jobs: PositiveInt | None = None
    # Jobs that share a GPU at a time
    jobs_per_gpu: PositiveInt = 1


@cache
def register() -> None:
    """Add them to Hydra's config store: hydra/sweeper=search, hydra/launcher=fork, hydra/sweeper/pruner=…"""
    store = ConfigStore.instance()
    store.store("search", SearchSweeperConf, "hydra/sweeper", provider="jikken")
    store.store("fork", ForkLauncherConf, "hydra/launcher", provider="jikken")
    store.store("default", DEFAULT_SAMPLER, "hydra/sweeper/sampler", provider="jikken")
    for name, node in PRUNERS.items():
        store.store(name, node, "hydra/sweeper/pruner", provider="jikken")


def check_limits(settings: DictConfig) -> None:
    """Check the numbers among the settings of a sweep.

    Raises:
        UserError: one is out of its range.
    """
    types = get_type_hints(SearchSweeperConf, include_extras=True)
    for name in NUMBERS:
        try:
            TypeAdapter(types[name]).validate_python(settings[name])
        except ValidationError as invalid:
            expected = invalid.errors()[0]["msg"].removeprefix("Input ")
            value = settings[name]
            raise UserError(f"hydra.sweeper.{name}={value} is refused: it {expected}") from None


def study_directions(config: DictConfig) -> list[str]:
    """The direction of each objective: hydra.sweeper.direction, or as the setting `mode` implies.

    Raises:
        UserError: a direction is unknown, or contradicts `mode`.
    """
    mode, direction = config.get("mode"), config.hydra.sweeper.direction
    if direction is None:
        return [DIRECTIONS.get(mode, "minimize")]
    names = _names(direction)
    unknown = [name for name in names if name not in MODES]
    if unknown or not names:
        text = ", ".join(unknown) or "[]"
        raise UserError(f"hydra.sweeper.direction={text} is refused: it is minimize or maximize")
    if len(names) == 1 and mode in DIRECTIONS and names[0] != DIRECTIONS[mode]:
        raise UserError(direction_conflict(mode, names[0]))
    return names


def objective_mode(mode: Mode | None, direction: Any) -> Mode:
    """Whether lower or higher is better: as the setting `mode`, else hydra.sweeper.direction, else `min`."""
    names = [] if direction is None else _names(direction)
    return mode or MODES.get(names[0].lower() if names else "", "min")


def direction_conflict(mode: Mode, direction: str) -> str:
    """The message for a direction that contradicts `mode`."""
    return (
        f"hydra.sweeper.direction={direction} contradicts mode={mode}, the way in which the monitored metric "
        f"is good: set mode={MODES[direction]} with a monitor that fits, or "
        f"hydra.sweeper.direction={DIRECTIONS[mode]}"
    )


def _names(direction: Any) -> list[str]:
    """One direction or several, as text or as Optuna's enum."""
    is_one = isinstance(direction, str) or not hasattr(direction, "__iter__")
    return [getattr(item, "name", str(item)) for item in ([direction] if is_one else direction)]
