"""What a setting may be. Values live in config/*.yaml, types here and in the experiments."""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from src.utils.config.trainer_arguments import (
    NO_LIMIT,
    TrainerArguments,
    check_names,
    has_other_limit,
)
from src.utils.errors import UserError

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
)

PLAIN = re.compile(r"[A-Za-z_/-][\w/-]*")  # a text for Hydra, too, unless it is one of its words
WORDS = {"true", "false", "null", "nan", "inf"}
LARGEST = 2**63 - 1  # what torch, NumPy and every database take
# Settings of earlier versions, and what is typed in their place
RENAMED = {"resume": "resume_study=STUDY", "fork": "warm_start=RUN, without resume_run"}


class Settings(BaseModel):
    """What every experiment has; values in config/utils/settings.yaml."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, coerce_numbers_to_str=True, allow_inf_nan=False
    )

    seed: Annotated[int, Field(ge=0, lt=2**32)]  # what NumPy takes
    note: str
    tags: list[Annotated[str, Field(pattern=r"^[\w /.:-]+$", max_length=200)]]  # MLflow's names
    stale: Literal["rebuild", "ignore"] = "rebuild"  # data of an earlier stage that are out of date

    def paths_read(self) -> list[Path]:
        """The paths among the settings whose files go into the data: all of them, unless a stage knows
        better. What is not read is not digested either."""
        return [value for _, value in self if isinstance(value, Path)]


class StageSettings(Settings):
    """What every dataset and feature has; values in config/utils/stage.yaml."""

    force: bool


class TrainingSettings(Settings):
    """What every model has; values in config/utils/training.yaml."""

    trainer: TrainerArguments  # before max_epochs, which depends on it
    max_epochs: int
    monitor: str | None  # the metric that says what is best …
    mode: Literal["min", "max"] | None  # … and which way it is good
    checkpoint_every: PositiveInt | None
    compile: bool
    resume_study: str | None
    resume_run: str | None
    warm_start: str | None

    @field_validator("max_epochs")
    @classmethod
    def _ends(cls, value: int, info: ValidationInfo) -> int:
        if value < 1 and not (value == -1 and has_other_limit(info.data.get("trainer", {}))):
            raise ValueError(NO_LIMIT.removeprefix("it "))
        return value

    @field_validator("warm_start")
    @classmethod
    def _alone(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("resume_run") is not None:
            raise ValueError("should be set without resume_run, which goes on with the run itself")
        return value


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings by their dotted names, as they are typed and as MLflow shows them."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def as_text(argument: str, kind: type[Settings], sweeps: bool = False) -> str:
    """`note='50% (really)'`: in quotes where a text is meant and Hydra would read something else.

    `sweeps`: with -m, `feature=a,b` are two values.
    """
    key, equals, value = argument.partition("=")
    field = kind.model_fields.get(key.lstrip("+"))
    if not equals or field is None or field.annotation not in (str, str | None):
        return argument
    if PLAIN.fullmatch(value) and value.lower() not in WORDS:
        return argument
    if _is_text(argument, sweeps) or (value in ("null", "") and field.annotation is not str):
        return argument
    return f"{key}={QuotedString(value, Quote.single).with_quotes()}"


def _is_text(argument: str, sweeps: bool) -> bool:
    """Whether Hydra reads a text in it; or, with -m, several values."""
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    if override.is_sweep_override():
        return sweeps
    return isinstance(override.value(), str)


AnySettings = TypeVar("AnySettings", bound=Settings)


def validated(kind: type[AnySettings], cfg: DictConfig) -> AnySettings:
    """The composed config as `kind`, or one line that names each key, its value and what was expected."""
    values = OmegaConf.to_container(cfg, resolve=True)
    try:
        settings = kind.model_validate(values)
    except ValidationError as invalid:
        problems = [_problem(dict(error), kind) for error in invalid.errors()]
        raise UserError("; ".join(problems)) from None
    for name, value in flat(settings.model_dump()):
        if isinstance(value, int) and abs(value) > LARGEST:
            raise UserError(f"{name}={value} is refused: it should be at most {LARGEST}")
    if isinstance(settings, TrainingSettings):
        check_names(settings.trainer)
    return settings


def load_config(file: Path) -> DictConfig:
    """A config that was kept in a file."""
    config = OmegaConf.load(file)
    assert isinstance(config, DictConfig)
    return config


def settings_of_run(cfg: DictConfig, current: AnySettings) -> AnySettings:
    """The settings that were kept with a run, as the class of the current ones.

    A setting of src/utils that is newer than the run has its current value; a renamed one is left out.
    """
    kinds = (Settings, StageSettings, TrainingSettings)
    shared = {name for kind in kinds if isinstance(current, kind) for name in kind.model_fields}
    values = current.model_dump(mode="json", include=shared)
    values |= {str(key): value for key, value in cfg.items() if key not in RENAMED}
    return validated(type(current), OmegaConf.create(values))


def unknown(key: str, known: list[str]) -> str:
    """«not a setting», with the nearest names there are."""
    if key in RENAMED:
        return f"{key} is not a setting any more: type {RENAMED[key]}"
    near = get_close_matches(key, known, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    return f"{key} is not a setting: {hint}"


def _problem(error: dict[str, Any], kind: type[Settings]) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return unknown(key, list(kind.model_fields))
    if error["type"] == "missing":
        return f"{key} has no value: give it one in config.yaml"
    expected = error["msg"]
    for prefix in ("Input ", "String ", "List ", "Value error, "):
        expected = expected.removeprefix(prefix)
    if error["type"] == "int_parsing_size":
        expected = f"should be at most {LARGEST}"
    if error["type"] == "list_type" and isinstance(error["input"], str):
        expected += f", as in {key}=[{error['input'] or 'one,two'}]"
    return f"{key}={as_typed(error['input'])} is refused: it {expected}"


def as_typed(value: Any) -> str:
    """A value as it is typed on the command line; of a long one the beginning."""
    typed = {None: "null", True: "true", False: "false"}
    text = typed[value] if value is None or isinstance(value, bool) else str(value)
    return text if len(text) <= 100 else f"{text[:100]}…"
