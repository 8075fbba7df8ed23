"""Optuna's sampler and pruner, made from hydra.sweeper.sampler and hydra.sweeper.pruner."""

from typing import Any

from src.utils.config.sweep_settings import PRUNERS
from src.utils.errors import UserError, one_line
from src.utils.study.search_space import SearchSpace

from hydra.utils import instantiate
from omegaconf import DictConfig
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, QMCSampler, RandomSampler

SAMPLERS = ("optuna.samplers.*", "hydra_plugins.hydra_optuna_sweeper.*")


def sampler_of(settings: DictConfig, space: SearchSpace, seed: int | None) -> BaseSampler:
    """The configured sampler; the points of a grid are counted off, so that needs none.

    `seed` is for samplers that are told none.
    """
    if space.grid:
        return RandomSampler()
    seeded = "seed" in settings.sampler and settings.sampler.seed is None
    more = {"seed": seed} if seeded else {}
    made: BaseSampler = _made("sampler", settings.sampler, SAMPLERS, **more)
    return made


def advance(sampler: BaseSampler, settings: DictConfig, seed: int | None) -> BaseSampler:
    """The sampler with another seed: its first points were drawn already.

    Not of quasi-random sequences: the study counts how far they have come, and the seed names them.
    """
    if "seed" not in settings.sampler or isinstance(sampler, QMCSampler):
        return sampler
    made: BaseSampler = _made("sampler", settings.sampler, SAMPLERS, seed=seed)
    return made


def pruner_of(settings: DictConfig) -> BasePruner:
    """The configured pruner."""
    made: BasePruner = _made("pruner", settings.pruner, ("optuna.pruners.*",))
    return made


def is_default_pruner(config: DictConfig) -> bool:
    """Whether nobody has chosen or set one."""
    chosen = config.hydra.runtime.choices.get("hydra/sweeper/pruner")
    return bool(chosen == "default" and config.hydra.sweeper.pruner == PRUNERS["default"])


def _made(what: str, settings: DictConfig, trusted: tuple[str, ...], **more: Any) -> Any:
    try:
        return instantiate(settings, **more, _execution_whitelist_=trusted)
    except Exception as error:  # whatever Optuna finds wrong with its arguments
        root: BaseException = error
        while root.__cause__ is not None:
            root = root.__cause__
        raise UserError(f"hydra.sweeper.{what} can't be made: {one_line(root)}") from None
