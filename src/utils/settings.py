"""What a setting may be. Values live in config/*.yaml, types here and in the experiments."""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from src.utils.errors import UserError

from omegaconf import DictConfig, OmegaConf
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
)

NUMBER = re.compile(r"[+-]?[\d_.]+(e[+-]?[\d_]+)?", re.IGNORECASE)


class Settings(BaseModel):
    """What every experiment has; values in config/utils/settings.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    seed: NonNegativeInt
    note: str
    tags: list[Annotated[str, Field(pattern=r"^[\w /.:-]+$")]]  # what MLflow takes in a name


class StageSettings(Settings):
    """What every dataset and feature has; values in config/utils/stage.yaml."""

    force: bool


class TrainingSettings(Settings):
    """What every model has; values in config/utils/training.yaml."""

    max_epochs: PositiveInt
    monitor: str | None  # the metric that says what is best …
    mode: Literal["min", "max"] | None  # … and which way it is good
    checkpoint_every: PositiveInt | None
    compile: bool
    resume: str | None
    resume_run: str | None
    fork: bool
    trainer: dict[str, Any]

    @field_validator("fork")
    @classmethod
    def _from_a_run(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("resume_run") is None:
            raise ValueError("needs resume_run=ID, the run to begin with")
        return value


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings by their dotted names, as they are typed and as MLflow shows them."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def as_text(argument: str, kind: type[Settings]) -> str:
    """`resume_run=12e45678` in quotes: Hydra reads a number in it, where a text is meant."""
    key, _, value = argument.partition("=")
    field = kind.model_fields.get(key)
    is_text = field is not None and field.annotation in (str, str | None)
    return f"{key}='{value}'" if is_text and NUMBER.fullmatch(value) else argument


AnySettings = TypeVar("AnySettings", bound=Settings)


def validated(kind: type[AnySettings], cfg: DictConfig) -> AnySettings:
    """The composed config as `kind`, or one line that names each key, its value and what was expected."""
    values = OmegaConf.to_container(cfg, resolve=True)
    try:
        return kind.model_validate(values)
    except ValidationError as invalid:
        problems = [_problem(dict(error), kind) for error in invalid.errors()]
        raise UserError("; ".join(problems)) from None


def load_config(file: Path) -> DictConfig:
    """A config that was kept in a file."""
    config = OmegaConf.load(file)
    assert isinstance(config, DictConfig)
    return config


def unknown(key: str, known: list[str]) -> str:
    """«not a setting», with the nearest names there are."""
    near = get_close_matches(key, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    return f"{key} is not a setting: {hint}"


def _problem(error: dict[str, Any], kind: type[Settings]) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return unknown(key, list(kind.model_fields))
    if error["type"] == "missing":
        return f"{key} has no value: give it one in config.yaml"
    expected = error["msg"]
    for prefix in ("Input ", "String ", "Value error, "):
        expected = expected.removeprefix(prefix)
    return f"{key}={error['input']} is refused: it {expected}"
