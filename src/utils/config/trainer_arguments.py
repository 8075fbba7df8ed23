"""The setting `trainer`: arguments of Lightning's Trainer, and which of them are refused.

Names are checked against the Trainer's own signature. Values are checked by Lightning when it makes a
Trainer; those that Lightning would refuse only during training, or never, by the types below.
"""

import ast
import logging
import math
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from src.utils.errors import UserError, one_line

from omegaconf import DictConfig, OmegaConf, flag_override
from pydantic import AfterValidator, ConfigDict, NonNegativeInt, PositiveInt, WithJsonSchema
from typing_extensions import TypedDict  # Python 3.11's own is not enough for pydantic

# Arguments that a tracked run sets: the values that change nothing, and why others are refused
RESERVED: dict[str, tuple[tuple[Any, ...], str]] = {
    "logger": ((True, None), "is the run's own; add others in code, to the trainer's loggers"),
    "callbacks": (([], None), "belongs in code: tracked_trainer(…, callbacks=[…])"),
    "default_root_dir": ((None,), "is the run's own, whose files are in logs/"),
    "barebones": ((False, None), "would turn off the run's metrics and checkpoints"),
    "enable_checkpointing": (
        (True, None),
        "would leave a run that can be neither loaded nor resumed",
    ),
}
NO_LIMIT = "it should be greater than 0; -1 needs +trainer.max_steps or +trainer.max_time"
EPOCH_LIMITS = {"max_epochs", "trainer.max_epochs"}
OTHER_LIMITS = {"trainer.max_steps", "trainer.max_time"}
HARDWARE = {"accelerator", "devices", "num_nodes", "strategy", "precision", "sync_batchnorm"}
SPLITS = ("train", "val", "test", "predict")
ARGUMENT = re.compile(r"^    (\w+): (.*(?:\n {8,}.*)*)", re.MULTILINE)  # in Lightning's docstring
ROLE = re.compile(r"(:\w+:`~?|``)")  # of reStructuredText
DURATION = re.compile(r"\d+:\d\d:\d\d:\d\d")  # as Lightning's Timer reads it


def _reserved(name: str) -> AfterValidator:
    def check(value: Any) -> Any:
        harmless, reason = RESERVED[name]
        if not any(type(value) is type(item) and value == item for item in harmless):
            raise ValueError(reason)
        return value

    return AfterValidator(check)


def _limit(value: int) -> int:
    if value < 1 and value != -1:
        raise ValueError("should be greater than 0, or -1 for no limit")
    return value


def _number(value: Any) -> Any:
    if value is not None and not _is_number(value):
        raise ValueError("should be a finite number that is not negative")
    return value


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value >= 0


def _interval(value: Any) -> Any:
    duration = isinstance(value, Mapping) or (isinstance(value, str) and DURATION.fullmatch(value))
    if value is not None and not duration and not (_is_number(value) and value > 0):
        raise ValueError("should be a number of batches, a part of an epoch, or DD:HH:MM:SS")
    return value


def _duration(value: Any) -> Any:
    if isinstance(value, Mapping) or value is None:
        return value
    if not isinstance(value, str) or not DURATION.fullmatch(value):
        raise ValueError("should be DD:HH:MM:SS, as in 00:01:30:00")
    return value


def _batches(value: Any) -> Any:
    if not isinstance(value, bool) and not (isinstance(value, int) and value >= 0):
        raise ValueError("should be true, false or a number of batches")
    return value


def _true_false_or_warn(value: Any) -> Any:
    if value is not None and not isinstance(value, bool) and value != "warn":
        raise ValueError("should be true, false or warn")
    return value


def _json(**schema: Any) -> WithJsonSchema:
    """What an editor is told of a type that is checked by a function."""
    return WithJsonSchema(schema)


DURATION_JSON = {"type": "string", "pattern": f"^{DURATION.pattern}$"}
POSITIVE_JSON = {"type": "number", "exclusiveMinimum": 0}
Number = Annotated[Any, AfterValidator(_number), _json(type=["number", "null"], minimum=0)]
Limit = Annotated[int, AfterValidator(_limit), _json(type="integer", minimum=-1)]
Duration = Annotated[
    Any, AfterValidator(_duration), _json(anyOf=[DURATION_JSON, {"type": ["object", "null"]}])
]
Interval = Annotated[
    Any,
    AfterValidator(_interval),
    _json(anyOf=[POSITIVE_JSON, DURATION_JSON, {"type": ["object", "null"]}]),
]
Batches = Annotated[Any, AfterValidator(_batches), _json(type=["boolean", "integer"], minimum=0)]
Deterministic = Annotated[
    Any, AfterValidator(_true_false_or_warn), _json(enum=[True, False, "warn", None])
]


class TrainerArguments(TypedDict, total=False):
    """Arguments that Lightning checks too late or not at all. All its other arguments are allowed, too."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]  # as pydantic documents it

    logger: Annotated[Any, _reserved("logger")]
    callbacks: Annotated[Any, _reserved("callbacks")]
    default_root_dir: Annotated[Any, _reserved("default_root_dir")]
    barebones: Annotated[Any, _reserved("barebones")]
    enable_checkpointing: Annotated[Any, _reserved("enable_checkpointing")]
    max_epochs: Limit | None
    min_epochs: NonNegativeInt | None
    max_steps: Limit
    min_steps: NonNegativeInt | None
    max_time: Duration
    fast_dev_run: Batches
    limit_train_batches: Number
    limit_val_batches: Number
    limit_test_batches: Number
    limit_predict_batches: Number
    overfit_batches: Number
    gradient_clip_val: Number
    val_check_interval: Interval
    check_val_every_n_epoch: PositiveInt | None
    num_sanity_val_steps: Annotated[int, AfterValidator(lambda steps: max(steps, -1))]
    log_every_n_steps: PositiveInt
    accumulate_grad_batches: PositiveInt
    reload_dataloaders_every_n_epochs: NonNegativeInt
    num_nodes: PositiveInt
    enable_progress_bar: bool | None
    enable_model_summary: bool | None
    deterministic: Deterministic
    benchmark: bool | None
    inference_mode: bool
    use_distributed_sampler: bool
    detect_anomaly: bool
    sync_batchnorm: bool


@cache
def argument_descriptions() -> dict[str, str]:
    """What Lightning says about the Trainer's arguments, read from its source: its import takes seconds."""
    package = find_spec("pytorch_lightning")
    assert package is not None and package.origin is not None
    tree = ast.parse((Path(package.origin).parent / "trainer" / "trainer.py").read_text())
    trainer = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Trainer")
    methods = (n for n in trainer.body if isinstance(n, ast.FunctionDef))
    init = next(n for n in methods if n.name == "__init__")
    documented = dict(ARGUMENT.findall(ast.get_docstring(init) or ""))
    names = (argument.arg for argument in init.args.kwonlyargs)
    return {name: ROLE.sub("`", one_line(documented.get(name, ""))) for name in names}


def argument_names() -> tuple[str, ...]:
    """Names of the Trainer's arguments."""
    return tuple(argument_descriptions())


def unknown_argument(name: str) -> str:
    """The message for a name that the Trainer does not have, with the most similar one."""
    similar = get_close_matches(name, argument_names(), n=1)
    hint = f"did you mean {similar[0]}?" if similar else f"there are {', '.join(argument_names())}"
    return f"trainer.{name} is not an argument of Lightning's Trainer: {hint}"


def check_argument_names(trainer: Mapping[str, Any]) -> None:
    """Check the names of the arguments, and that the training has a limit.

    Raises:
        UserError: the Trainer has no such argument, or nothing ends the training.
    """
    unknown = [name for name in trainer if name not in argument_names()]
    if unknown:
        raise UserError("; ".join(map(unknown_argument, unknown)))
    if trainer.get("max_epochs") == -1 and not has_other_limit(trainer):
        raise UserError(f"trainer.max_epochs=-1 is refused: {NO_LIMIT}")


def has_other_limit(trainer: Mapping[str, Any]) -> bool:
    """Whether max_steps or max_time limits the training."""
    return bool(trainer.get("max_time")) or trainer.get("max_steps") not in (None, -1)


def check_trainer_arguments(trainer: Mapping[str, Any], without_hardware: bool = False) -> None:
    """Check the values by making a Trainer, if the program has imported Lightning.

    Args:
        without_hardware: leave out what depends on the machine: the training runs on another one.

    Raises:
        UserError: Lightning refuses a value, or the values together.
    """
    arguments = trainer_arguments(trainer)
    if without_hardware:
        arguments = {name: arguments[name] for name in arguments if name not in HARDWARE}
    reason = _refusal(arguments)
    if reason is None:
        return
    for name, value in arguments.items():
        own_reason = _refusal({name: value})
        if own_reason is not None:
            text = "null" if value is None else value
            raise UserError(f"trainer.{name}={text} is refused: {own_reason}")
    raise UserError(f"these trainer arguments don't go together: {reason}")


def _refusal(arguments: dict[str, Any]) -> str | None:
    """Why Lightning refuses these arguments; None if it makes a Trainer of them."""
    lightning = sys.modules.get("pytorch_lightning")
    if lightning is None:
        return None
    from src.utils.config.cluster import with_environment  # late: it imports Lightning

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    log = logging.getLogger("pytorch_lightning")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            lightning.Trainer(
                **{**with_environment(arguments), **quiet, "enable_model_summary": False}
            )
    except Exception as error:  # of any type: Lightning, torch or a plugin may raise it
        return one_line(error) or type(error).__name__
    finally:
        log.setLevel(level)
    return None


def trainer_arguments(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments to make a Trainer with, without those that a tracked run sets.

    `fast_dev_run` becomes one epoch of as many batches of each loader: Lightning's own saves no checkpoint.
    """
    arguments = {name: value for name, value in trainer.items() if name not in RESERVED}
    batches = int(arguments.pop("fast_dev_run", False))
    if batches:
        for name in ("min_epochs", "min_steps", "max_time", "check_val_every_n_epoch"):
            arguments.pop(name, None)
        arguments |= {f"limit_{split}_batches": batches for split in SPLITS}
        arguments |= {"max_epochs": 1, "max_steps": -1, "val_check_interval": 1.0}
    return arguments


def lift_epoch_limit(
    cfg: DictConfig, overridden: set[str], load_own_config: Callable[[], DictConfig]
) -> None:
    """Set max_epochs=-1 if max_steps or max_time is set and should end the training alone.

    They should if the command line overrides one of them and not max_epochs, or if none is overridden and the
    experiment's own config.yaml has no max_epochs.

    Args:
        overridden: names of the settings in the command line's overrides
        load_own_config: loads the experiment's own config.yaml, without its defaults list
    """
    limits = {name: OmegaConf.select(cfg, name) for name in OTHER_LIMITS}
    if all(limit in (None, -1) for limit in limits.values()) or overridden & EPOCH_LIMITS:
        return
    if not overridden & OTHER_LIMITS:
        own = load_own_config()
        if any(OmegaConf.select(own, name) is not None for name in EPOCH_LIMITS):
            return
    with flag_override(cfg, "readonly", False):
        for name in EPOCH_LIMITS:
            OmegaConf.update(cfg, name, -1)
