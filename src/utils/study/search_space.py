"""The search space of a study: what a sweep varies, what it fixes, and the directions of its objectives.

`-m x=1,2 y=3,4` is a grid: every combination runs once. From `-m 'x=interval(0,1)'` a sampler draws.
`hydra.sweeper.custom_search_space` names a function that suggests more parameters of each trial, as in
Hydra's official Optuna sweeper.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from typing import Any

from src.utils.config.sweep_settings import study_directions
from src.utils.errors import UserError, one_line
from src.utils.paths import Experiment

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, ValueType
from hydra.utils import instantiate
from hydra_plugins.hydra_optuna_sweeper._impl import OptunaSweeperImpl, create_params_from_overrides
from omegaconf import DictConfig
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

INNER_POINT = 0.382  # a point inside a range, as a share of its length
MAX_CHECKED = 8  # numbers in a list; of more, the ends are checked: each takes 0.1 seconds
TRUSTED = ("src.utils.*", "optuna.*", "hydra_plugins.*")  # where a custom search space may be
CustomSearchSpace = Callable[[DictConfig, optuna.Trial], None]


@dataclass(frozen=True)
class SearchSpace:
    """A search space, and all that has to stay the same when its study is resumed."""

    distributions: dict[str, BaseDistribution]
    fixed: dict[str, str]  # overrides that are the same in every trial
    deletions: list[str]  # overrides that delete a setting (~key)
    directions: list[str]
    is_grid: bool  # every combination runs once; no sampler draws

    @classmethod
    def from_overrides(
        cls, overrides: Sequence[str], config: DictConfig, use_sampler: bool
    ) -> "SearchSpace":
        """Parse the overrides of the command line and those of `hydra.sweeper.params`.

        Args:
            use_sampler: let the sampler choose even where all ranges are plain lists of values.

        Raises:
            UserError: there is nothing to search, or an override or a direction is not valid.
        """
        settings = config.hydra.sweeper
        params = [f"{name}={value}" for name, value in (settings.params or {}).items()]
        overrides = [*params, *overrides]
        distributions, fixed, deletions = _parse(overrides)
        distributions = {name: one for name, one in distributions.items() if name not in fixed}
        if not distributions and not params and not settings.custom_search_space:
            raise UserError(
                "there is nothing to search: give a range, as in -m 'learning_rate=interval(0.001,0.01)', "
                "or put hydra.sweeper.params in config.yaml"
            )
        if settings.sampler._target_.endswith(".GridSampler"):
            is_grid = True
        else:
            is_sampled = use_sampler or settings.custom_search_space
            is_grid = not is_sampled and _are_plain_lists(overrides)
        return cls(distributions, fixed, deletions, study_directions(config), is_grid)

    @cached_property
    def grid_points(self) -> list[dict[str, Any]]:
        """All combinations of a grid; empty where a sampler draws.

        Raises:
            UserError: a range has neither a list of values nor a step.
        """
        if not self.is_grid:
            return []
        try:
            choices = {
                name: OptunaSweeperImpl._to_grid_sampler_choices(distribution)
                for name, distribution in self.distributions.items()
            }
        except ValueError:
            raise UserError(
                "a grid needs lists or steps, as in a=1,2 b=range(1,5); an interval has no end of values"
            ) from None
        return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]

    def points_to_check(self) -> Iterator[dict[str, Any]]:
        """Points that cover each choice, and the ends and an inner point of each range.

        The sweep composes and checks their settings before it runs a trial.
        """
        values = {name: _values_to_check(one) for name, one in self.distributions.items()}
        for number in range(max(map(len, values.values()), default=0)):
            yield {name: some[number % len(some)] for name, some in values.items()}

    @contextmanager
    def integer_hints(self) -> Iterator[None]:
        """Add to an error about a range of floats how a range of integers is written.

        Raises:
            UserError: the one that is raised inside, with the hint where it fits.
        """
        try:
            yield
        except UserError as error:
            for name, one in self.distributions.items():
                if isinstance(one, FloatDistribution) and f"{name}=" in str(error):
                    integers = f"int(interval({one.low:g},{one.high:g}))"
                    if "integer" in str(error):
                        raise UserError(f"{error}; whole numbers are {name}={integers}") from None
            raise

    def trial_overrides(self, params: dict[str, Any]) -> list[str]:
        """Return the overrides of one trial.

        Raises:
            UserError: custom_search_space has suggested a parameter that an override fixes.
        """
        conflicts = sorted(params.keys() & self.fixed.keys())
        if conflicts:
            raise UserError(
                f"{', '.join(conflicts)}: suggested by custom_search_space, but fixed too"
            )
        values = {**params, **self.fixed}
        return [*(f"{name}={value}" for name, value in values.items()), *self.deletions]

    def describe(self) -> dict[str, str]:
        """Return the search space as text, as it is stored with the study and compared on resume."""
        return {
            **{name: str(distribution) for name, distribution in self.distributions.items()},
            **{name: str(value) for name, value in self.fixed.items()},
            "hydra.sweeper.direction": ", ".join(self.directions),
        }


def _parse(
    overrides: list[str],
) -> tuple[dict[str, BaseDistribution], dict[str, str], list[str]]:
    """Parse each override alone first: an error then names the override."""
    for override in OverridesParser.create().parse_overrides(overrides):
        line = str(override.input_line)
        if override.value_type is ValueType.GLOB_CHOICE_SWEEP:
            raise UserError(f"{line}: a search needs the values themselves, as in a=x,y")
        try:
            create_params_from_overrides([line])
        except (ValueError, AssertionError, NotImplementedError) as error:
            raise UserError(f"{line} makes no sense: {error}") from None
    return create_params_from_overrides(overrides)


def _are_plain_lists(overrides: list[str]) -> bool:
    """`-m a=1,2 b=3,4` runs every combination once, as everywhere in Hydra."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    sweeps = [override for override in parsed if override.is_sweep_override()]
    return bool(sweeps) and all(_is_plain_list(override) for override in sweeps)


def _is_plain_list(override: Override) -> bool:
    value = override.value()
    return isinstance(value, ChoiceSweep) and value.simple_form


def _values_to_check(distribution: BaseDistribution) -> tuple[Any, ...]:
    if isinstance(distribution, CategoricalDistribution):
        choices = distribution.choices
        numbers = all(type(choice) in (int, float) for choice in choices)
        return _ends(choices) if numbers and len(choices) > MAX_CHECKED else choices
    assert isinstance(distribution, IntDistribution | FloatDistribution)  # there are no others
    low, high, step = distribution.low, distribution.high, distribution.step
    if step is None:  # the inner point is no integer, where the range has other numbers
        return low, high, low + (high - low) * INNER_POINT
    return low, high, min(low + step, high)


def _ends(numbers: Sequence[Any]) -> tuple[Any, ...]:
    """The least and the greatest integer, and the least and the greatest float."""
    kinds = ([number for number in numbers if type(number) is kind] for kind in (int, float))
    return tuple(end(some) for some in kinds if some for end in (min, max))


def load_custom_search_space(
    name: str | None, program: Any, experiment: Experiment
) -> CustomSearchSpace | None:
    """Load the function that `hydra.sweeper.custom_search_space` names; None where it is not set.

    Args:
        name: the name of a function in the experiment's own file, or a dotted path. A dotted path may lead
            into the experiment's folder and to the modules of `TRUSTED`, and nowhere else.
        program: the experiment's `Program`; None for a program that is no experiment.

    Raises:
        UserError: the function does not exist, can't be imported, or is not trusted.
    """
    if not name:
        return None
    module, _, function = name.rpartition(".")
    if program is not None:
        stem = program.file.stem
        if module in ("", "__main__", stem, f"src.{experiment.stage}.{experiment.name}.{stem}"):
            return _function_of_program(name, function, program)
    siblings = [f"{file.stem}.*" for file in experiment.source.glob("*.py")]
    trusted = [*TRUSTED, f"src.{experiment.stage}.{experiment.name}.*", *siblings]
    try:
        loaded: Any = instantiate(
            {"_target_": name, "_partial_": True}, _execution_whitelist_=trusted
        )
    except Exception as error:  # it can't be imported, or is not trusted
        why = one_line(error.__cause__ or error)
        raise UserError(f"hydra.sweeper.custom_search_space={name} can't be used: {why}") from None
    return loaded.func if isinstance(loaded, partial) else loaded


def _function_of_program(name: str, function: str, program: Any) -> CustomSearchSpace:
    found = program.main.__globals__.get(function)
    if not callable(found):
        file = program.file.name
        raise UserError(f"hydra.sweeper.custom_search_space={name}: {file} has no such function")
    return found  # type: ignore[no-any-return]  # its signature is the user's
