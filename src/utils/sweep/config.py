"""The settings behind `-m`: hydra.sweeper, its pruners, and hydra.launcher. No imports that cost."""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra_plugins.hydra_optuna_sweeper.config import OptunaSweeperConf
from omegaconf import MISSING

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
