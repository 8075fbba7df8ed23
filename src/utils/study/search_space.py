"""What a sweep asks: over what, with what held fixed, to which end, how many times."""

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

UNEVEN = 0.382  # the point of a range that is looked at
MANY = 8  # numbers in a list: of more, the ends are looked at, since each costs a tenth of a second
TRUSTED = ("src.utils.*", "optuna.*", "hydra_plugins.*")
Extend = Callable[[DictConfig, optuna.Trial], None]


@dataclass(frozen=True)
class SearchSpace:
    """A search space and all that has to stay the same when a study goes on."""

    space: dict[str, BaseDistribution]
    fixed: dict[str, str]  # overrides that are the same in every trial
    rest: list[str]  # …and deletions (~key)
    directions: list[str]
    grid: bool  # every combination once, instead of a sampler

    @classmethod
    def of(cls, arguments: Sequence[str], config: DictConfig, as_search: bool) -> "SearchSpace":
        """From what was typed, and `hydra.sweeper.params` of the config.

        `as_search`: let the sampler choose even among plain lists of values.
        """
        settings = config.hydra.sweeper
        params = [f"{name}={value}" for name, value in (settings.params or {}).items()]
        typed = [*params, *arguments]
        space, fixed, rest = _parsed(typed)
        space = {name: one for name, one in space.items() if name not in fixed}
        if not space and not params and not settings.custom_search_space:
            raise UserError(
                "there is nothing to search: give a range, as in -m 'learning_rate=interval(0.001,0.01)', "
                "or put hydra.sweeper.params in config.yaml"
            )
        if settings.sampler._target_.endswith(".GridSampler"):
            grid = True
        else:
            grid = not as_search and not settings.custom_search_space and _is_plain(typed)
        return cls(space, fixed, rest, study_directions(config), grid)

    @cached_property
    def points(self) -> list[dict[str, Any]]:
        """All combinations, of a grid."""
        if not self.grid:
            return []
        try:
            choices = {
                name: OptunaSweeperImpl._to_grid_sampler_choices(one)
                for name, one in self.space.items()
            }
        except ValueError:
            raise UserError(
                "a grid needs lists or steps, as in a=1,2 b=range(1,5); an interval has no end of values"
            ) from None
        return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]

    def samples(self) -> Iterator[dict[str, Any]]:
        """Points that have the ends of each range, one between them and the choices in them: what can
        be checked before a trial is run."""
        values = {name: _samples(one) for name, one in self.space.items()}
        for number in range(max(map(len, values.values()), default=0)):
            yield {name: some[number % len(some)] for name, some in values.items()}

    @contextmanager
    def hints(self) -> Iterator[None]:
        """Adds to what is wrong with a point how a range of whole numbers is written."""
        try:
            yield
        except UserError as error:
            for name, one in self.space.items():
                if isinstance(one, FloatDistribution) and f"{name}=" in str(error):
                    whole = f"int(interval({one.low:g},{one.high:g}))"
                    if "integer" in str(error):
                        raise UserError(f"{error}; whole numbers are {name}={whole}") from None
            raise

    def overrides(self, params: dict[str, Any]) -> list[str]:
        """The command line of one trial."""
        both = sorted(params.keys() & self.fixed.keys())
        if both:
            raise UserError(f"{', '.join(both)}: suggested by custom_search_space, but fixed too")
        return [
            *(f"{name}={value}" for name, value in {**params, **self.fixed}.items()),
            *self.rest,
        ]

    def describe(self) -> dict[str, str]:
        """As text that can be compared."""
        return {name: str(one) for name, one in self.space.items()} | {
            **{name: str(value) for name, value in self.fixed.items()},
            "hydra.sweeper.direction": ", ".join(self.directions),
        }


def _is_plain(typed: list[str]) -> bool:
    """`-m a=1,2 b=3,4` means every combination once, as anywhere in Hydra."""
    sweeps = [
        one for one in OverridesParser.create().parse_overrides(typed) if one.is_sweep_override()
    ]
    return bool(sweeps) and all(_is_list(one) for one in sweeps)


def _is_list(override: Override) -> bool:
    value = override.value()
    return isinstance(value, ChoiceSweep) and value.simple_form


def _parsed(typed: list[str]) -> tuple[dict[str, BaseDistribution], dict[str, str], list[str]]:
    for one in OverridesParser.create().parse_overrides(typed):
        if one.value_type is ValueType.GLOB_CHOICE_SWEEP:
            raise UserError(f"{one.input_line}: a search needs the values themselves, as in a=x,y")
        try:
            create_params_from_overrides([str(one.input_line)])
        except (ValueError, AssertionError, NotImplementedError) as error:
            raise UserError(f"{one.input_line} makes no sense: {error}") from None
    return create_params_from_overrides(typed)


def _samples(one: BaseDistribution) -> tuple[Any, ...]:
    """Of numbers, the third is none of the whole ones if there are others."""
    if isinstance(one, CategoricalDistribution):
        numbers = all(type(choice) in (int, float) for choice in one.choices)
        return _ends(one.choices) if numbers and len(one.choices) > MANY else one.choices
    assert isinstance(one, IntDistribution | FloatDistribution)  # there are no others
    if one.step is None:
        return one.low, one.high, one.low + (one.high - one.low) * UNEVEN
    return one.low, one.high, min(one.low + one.step, one.high)


def _ends(numbers: Sequence[Any]) -> tuple[Any, ...]:
    """The least and the greatest, of the whole ones and of the others."""
    kinds = ([one for one in numbers if type(one) is kind] for kind in (int, float))
    return tuple(end(some) for some in kinds if some for end in (min, max))


def custom_search_space(name: str | None, program: Any, experiment: Experiment) -> Extend | None:
    """The function of that name, or dotted path, if one is set.

    A name is enough in the experiment's own file. Otherwise only files of the experiment's folder are
    imported, and what Hydra may call in any case.

    Raises:
        UserError: there is none, or it is not trusted.
    """
    if not name:
        return None
    module, _, function = name.rpartition(".")
    if program is not None and module in (
        "",
        "__main__",
        program.file.stem,
        _dotted(program, experiment),
    ):
        return _own(name, function, program)
    own = [f"{file.stem}.*" for file in experiment.source.glob("*.py")]
    trusted = [*TRUSTED, f"src.{experiment.stage}.{experiment.name}.*", *own]
    try:
        found: Any = instantiate(
            {"_target_": name, "_partial_": True}, _execution_whitelist_=trusted
        )
    except Exception as error:  # it can't be imported, or is not trusted
        why = one_line(error.__cause__ or error)
        raise UserError(f"hydra.sweeper.custom_search_space={name} can't be used: {why}") from None
    return found.func if isinstance(found, partial) else found


def _dotted(program: Any, experiment: Experiment) -> str:
    return f"src.{experiment.stage}.{experiment.name}.{program.file.stem}"


def _own(name: str, function: str, program: Any) -> Extend:
    found = program.main.__globals__.get(function)
    if not callable(found):
        file = program.file.name
        raise UserError(f"hydra.sweeper.custom_search_space={name}: {file} has no such function")
    return found  # type: ignore[no-any-return]  # whatever the person wrote


# MERGED sweep/custom_search_space: `hydra.sweeper.custom_search_space`: a function that suggests more, as the official sweeper takes it.
