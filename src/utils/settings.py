"""Types of the settings that all experiments share. Their values are in config/*.yaml.

An experiment adds its own settings in a subclass. Its config.yaml begins with the values of the same tier:

class Config(TrainingSettings)    /training    a Lightning training
class Config(ModelSettings)       /model       any other model
class Config(StageSettings)       /stage       what makes data: a dataset, a feature
"""

import math
import os
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from src.utils.config.trainer_arguments import (
    NO_LIMIT,
    TrainerArguments,
    check_argument_names,
    has_other_limit,
)
from src.utils.config.worker_settings import WORKERS, LocalWorkers, Workers, unknown_worker_setting
from src.utils.errors import UserError
from src.utils.notification import SETTING, is_url
from src.utils.process import TRIAL

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
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
from pydantic_core import ErrorDetails

LARGEST_INT = 2**63 - 1  # what torch, NumPy and every database accept
LONGEST_VALUE = 100  # letters of a value in a message
PLAIN_TEXT = re.compile(r"[A-Za-z_/-][\w/-]*")  # Hydra reads it as text, except for these words:
HYDRA_WORDS = {"true", "false", "null", "nan", "inf"}
REFERENCES = ("resume_run", "warm_start")  # settings that name a run: by its id, or latest, or best
# Settings of earlier versions, and what replaces them
RENAMED = {"resume": "resume_study=STUDY", "fork": "warm_start=RUN, without resume_run"}


class Settings(BaseModel):
    """Settings of every experiment. Values: config/utils/settings.yaml."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, coerce_numbers_to_str=True, allow_inf_nan=False
    )

    seed: Annotated[int, Field(ge=0, lt=2**32)]  # NumPy's range
    note: str
    tags: list[Annotated[str, Field(pattern=r"^[\w /.:-]+$", max_length=200)]]  # as MLflow allows
    stale: Literal["rebuild", "ignore"] = "rebuild"  # what to do with inputs that are out of date
    # Who is told at the end (`src/utils/notification.py`); it is recorded nowhere
    notify: Annotated[str | list[str] | None, Field(exclude=True)] = None

    @field_validator("notify")
    @classmethod
    def _is_no_url(cls, value: str | list[str] | None) -> str | list[str] | None:
        if any(map(is_url, [value] if isinstance(value, str) else value or [])):
            raise ValueError(
                "should be a shell command in config.yaml, since a URL holds tokens, which do not belong in "
                "files: type it, or set JIKKEN_NOTIFY"
            )
        return value

    def paths_read(self) -> list[Path]:
        """Paths whose files go into the data: all settings that are paths, unless a subclass names fewer.

        Only these files are digested.
        """
        return [value for _, value in self if isinstance(value, Path)]


class StageSettings(Settings):
    """Settings of every dataset, feature, and what else makes data. Values: config/utils/stage.yaml."""

    force: bool


class ModelSettings(Settings):
    """Settings of every model, whatever library trains it. Values: config/utils/model.yaml."""

    monitor: str | None  # the metric that decides which epoch, trial or run is best
    mode: Literal["min", "max"] | None  # whether a lower or higher monitor is better
    folds: PositiveInt
    fold: NonNegativeInt | None
    seeds: PositiveInt
    resume_study: str | None
    resume_run: str | None
    warm_start: str | None
    reuse: bool  # the results of an equal run (`src/utils/runs/reuse.py`)
    # Where it is executed (`src/utils/workers`); it is no part of the run, and recorded nowhere
    workers: Annotated[Workers, Field(exclude=True)] = LocalWorkers()

    @property
    def is_group(self) -> bool:
        """Whether the run is a group, with a run for each fold and seed (`src/utils/groups`)."""
        return self.seeds > 1 or (self.folds > 1 and self.fold is None)

    @field_validator("fold")
    @classmethod
    def _is_one_of_the_folds(cls, value: int | None, info: ValidationInfo) -> int | None:
        folds = info.data.get("folds", math.inf)
        if value is not None and value >= folds:
            raise ValueError(f"should be less than folds={folds}: the first fold is 0")
        return value

    @field_validator("warm_start")
    @classmethod
    def _without_resume_run(cls, value: str | None, info: ValidationInfo) -> str | None:
        is_trial = TRIAL in os.environ  # it may go on with a run that had a warm start
        if value is not None and info.data.get("resume_run") is not None and not is_trial:
            raise ValueError("should be set without resume_run, which resumes the run itself")
        return value


class TrainingSettings(ModelSettings):
    """Settings of every Lightning training. Values: config/utils/training.yaml."""

    trainer: TrainerArguments  # before max_epochs, whose check reads it
    max_epochs: Annotated[int, Field(json_schema_extra={"minimum": -1})]  # see _has_limit
    checkpoint_every: PositiveInt | None
    compile: bool

    @field_validator("max_epochs")
    @classmethod
    def _has_limit(cls, value: int, info: ValidationInfo) -> int:
        if value < 1 and not (value == -1 and has_other_limit(info.data.get("trainer", {}))):
            raise ValueError(NO_LIMIT.removeprefix("it "))
        return value


def trains_on_cpu(settings: Settings) -> bool:
    """Whether a training is said to need no GPU: `trainer.accelerator=cpu`."""
    return getattr(settings, "trainer", {}).get("accelerator") == "cpu"


TRAINING_ONLY = {*TrainingSettings.model_fields} - {*ModelSettings.model_fields}

AnySettings = TypeVar("AnySettings", bound=Settings)


def validate_config(settings_class: type[AnySettings], cfg: DictConfig) -> AnySettings:
    """Convert a composed config to settings of a class.

    Raises:
        UserError: settings are unknown, missing or invalid. The message names each with its value and
            what is expected.
    """
    values = OmegaConf.to_container(cfg, resolve=True)
    try:
        settings = settings_class.model_validate(values)
    except ValidationError as invalid:
        problems = [_problem(dict(error), settings_class) for error in _once(invalid)]
        raise UserError("; ".join(problems)) from None
    for name, value in flatten(settings.model_dump()):
        if isinstance(value, int) and abs(value) > LARGEST_INT:
            raise UserError(f"{name}={value} is refused: it should be at most {LARGEST_INT}")
    if isinstance(settings, TrainingSettings):
        check_argument_names(settings.trainer)
    return settings


def _once(invalid: ValidationError) -> list[ErrorDetails]:
    """Its errors without those of Trainer arguments that take a setting's value: `trainer.max_epochs`."""
    errors = invalid.errors()
    refused = {("trainer", *error["loc"]) for error in errors}
    return [error for error in errors if error["loc"] not in refused]


def _problem(error: dict[str, Any], settings_class: type[Settings]) -> str:
    """Describe one of pydantic's errors, with the setting and its value."""
    key = ".".join(str(part) for part in _without_choice(error["loc"]))
    if error["type"] == "union_tag_invalid":
        known = error["ctx"]["expected_tags"].replace("'", "")
        return f"{key}.engine={error['ctx']['tag']} is refused: there are {known}"
    if error["type"] == "extra_forbidden":
        return unknown_setting(key, list(settings_class.model_fields))
    if error["type"] == "missing":
        tier = ", or let it begin with /training" if key in TRAINING_ONLY else ""
        return f"{key} has no value: give it one in config.yaml{tier}"
    expected = error["msg"]
    for prefix in ("Input ", "String ", "List ", "Value error, "):
        expected = expected.removeprefix(prefix)
    if error["type"] == "int_parsing_size":
        expected = f"should be at most {LARGEST_INT}"
    if error["type"] == "list_type" and isinstance(error["input"], str):
        expected += f", as in {key}=[{error['input'] or 'one,two'}]"
    value = "…" if key.split(".")[0] == SETTING else format_override_value(error["input"])
    return f"{key}={value} is refused: it {expected}"


def _without_choice(path: tuple[Any, ...]) -> tuple[Any, ...]:
    """`workers.count` in place of `workers.slurm.count`, which pydantic says."""
    return (WORKERS, *path[2:]) if path[:1] == (WORKERS,) else path


def unknown_setting(key: str, known: list[str]) -> str:
    """The message for an unknown setting, with the most similar names among `known`."""
    if key in RENAMED:
        return f"{key} is not a setting any more: type {RENAMED[key]}"
    if key.partition(".")[0] == WORKERS:
        return unknown_worker_setting(key)
    similar = get_close_matches(key, known, n=2)
    root = key.partition(".")[0]
    if not similar and root in TRAINING_ONLY - {name.partition(".")[0] for name in known}:
        return (
            f"{key} is not a setting here: it belongs to Lightning trainings, whose config.yaml begins with "
            "/training and whose class is Config(TrainingSettings)"
        )
    hint = f"did you mean {' or '.join(similar)}?" if similar else f"there are {', '.join(known)}"
    return f"{key} is not a setting: {hint}"


def format_override_value(value: Any) -> str:
    """A value as an override has it; of a long one the beginning."""
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else str(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


def load_config(file: Path) -> DictConfig:
    """Load a config that was saved in a YAML file."""
    config = OmegaConf.load(file)
    assert isinstance(config, DictConfig)
    return config


def settings_of_run(cfg: DictConfig, current: AnySettings) -> AnySettings:
    """Convert the config that was saved with a run to the class of the current settings.

    A shared setting that is newer than the run has its current value. A renamed one is left out.

    Raises:
        UserError: the saved settings don't fit the experiment's current class.
    """
    classes = (Settings, StageSettings, ModelSettings, TrainingSettings)
    shared = {name for cls in classes if isinstance(current, cls) for name in cls.model_fields}
    values = current.model_dump(mode="json", include=shared)
    values |= {str(key): value for key, value in cfg.items() if key not in RENAMED}
    return validate_config(type(current), OmegaConf.create(values))


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings by their dotted names, as overrides and MLflow's parameters have them."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def quote_text(argument: str, settings_class: type[Settings], is_multirun: bool = False) -> str:
    """Quote an override's value if its setting is text and Hydra would read something else.

    `note=50% (really)` becomes `note='50% (really)'`. With -m, `feature=a,b` stays two values.
    """
    key, equals, value = argument.partition("=")
    field = settings_class.model_fields.get(key.lstrip("+"))
    if not equals or field is None or field.annotation not in (str, str | None):
        return argument
    if PLAIN_TEXT.fullmatch(value) and value.lower() not in HYDRA_WORDS:
        return argument
    if value in ("null", "") and field.annotation is not str:
        return argument
    if _is_text(argument, is_multirun):
        return argument
    return f"{key}={QuotedString(value, Quote.single).with_quotes()}"


def _is_text(argument: str, is_multirun: bool) -> bool:
    """Whether Hydra reads the value as text, or with -m as a sweep."""
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    if override.is_sweep_override():
        return is_multirun
    return isinstance(override.value(), str)
