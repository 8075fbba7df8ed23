"""Creates Optuna's sampler and pruner from hydra.sweeper.sampler and hydra.sweeper.pruner."""

from typing import Any

from src.utils.config.sweep_settings import PRUNERS
from src.utils.errors import UserError, one_line
from src.utils.study.search_space import SearchSpace

from hydra.utils import instantiate
from omegaconf import DictConfig
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, QMCSampler, RandomSampler

# Targets that Hydra may instantiate
TRUSTED_SAMPLERS = ("optuna.samplers.*", "hydra_plugins.hydra_optuna_sweeper.*")
TRUSTED_PRUNERS = ("optuna.pruners.*",)


def create_sampler(settings: DictConfig, space: SearchSpace, seed: int | None) -> BaseSampler:
    """Create the configured sampler.

    Args:
        settings: `hydra.sweeper`.
        seed: the seed of a sampler that has none of its own.

    Raises:
        UserError: Optuna refuses the sampler's arguments, or it is not a sampler of Optuna.
    """
    if space.is_grid:
        return RandomSampler()  # never asked: the trial's number gives the point of the grid
    uses_seed = "seed" in settings.sampler and settings.sampler.seed is None
    arguments = {"seed": seed} if uses_seed else {}
    sampler: BaseSampler = _instantiate("sampler", settings.sampler, TRUSTED_SAMPLERS, **arguments)
    return sampler


def reseed_sampler(sampler: BaseSampler, settings: DictConfig, seed: int | None) -> BaseSampler:
    """Return the sampler with another seed, so that it does not draw its first points again.

    A quasi-random sampler stays as it is: the study counts how many points it has drawn, and its seed
    identifies the sequence.

    Raises:
        UserError: Optuna refuses the sampler's arguments.
    """
    if "seed" not in settings.sampler or isinstance(sampler, QMCSampler):
        return sampler
    reseeded: BaseSampler = _instantiate("sampler", settings.sampler, TRUSTED_SAMPLERS, seed=seed)
    return reseeded


def create_pruner(settings: DictConfig) -> BasePruner:
    """Create the configured pruner.

    Args:
        settings: `hydra.sweeper`.

    Raises:
        UserError: Optuna refuses the pruner's arguments, or it is not a pruner of Optuna.
    """
    pruner: BasePruner = _instantiate("pruner", settings.pruner, TRUSTED_PRUNERS)
    return pruner


def is_default_pruner(config: DictConfig) -> bool:
    """Whether the pruner is the default one, with its default settings."""
    choice = config.hydra.runtime.choices.get("hydra/sweeper/pruner")
    return bool(choice == "default" and config.hydra.sweeper.pruner == PRUNERS["default"])


def _instantiate(name: str, settings: DictConfig, trusted: tuple[str, ...], **more: Any) -> Any:
    try:
        return instantiate(settings, **more, _execution_whitelist_=trusted)
    except Exception as error:  # anything that Optuna refuses about the arguments
        root: BaseException = error
        while root.__cause__ is not None:
            root = root.__cause__
        raise UserError(f"hydra.sweeper.{name} can't be made: {one_line(root)}") from None
