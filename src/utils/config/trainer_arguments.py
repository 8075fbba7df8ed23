"""How the setting `trainer` becomes arguments of Lightning's Trainer, and which of them are refused.

Names are checked against the Trainer's own signature, values by Lightning itself where it checks them when
a Trainer is made, and by the types below where it finds out only while it trains.
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
from pydantic import AfterValidator, ConfigDict, NonNegativeInt, PositiveInt
from typing_extensions import TypedDict  # Python 3.11's own is not enough for pydantic

# What a tracked run decides, with the values that change nothing, and where such a thing belongs.
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
EPOCHS = {"max_epochs", "trainer.max_epochs"}
SPLITS = ("train", "val", "test", "predict")
DURATION = re.compile(r"\d+:\d\d:\d\d:\d\d")  # as Lightning's Timer wants it


def _owned(name: str) -> AfterValidator:
    def check(value: Any) -> Any:
        harmless, advice = RESERVED[name]
        if not any(type(value) is type(one) and value == one for one in harmless):
            raise ValueError(advice)
        return value

    return AfterValidator(check)


def _epochs(value: int) -> int:
    if value < 1 and value != -1:
        raise ValueError("should be greater than 0, or -1 for no limit")
    return value


def _number(value: Any) -> Any:
    if value is not None and not _is_number(value):
        raise ValueError("should be a finite number that is not negative")
    return value


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


def _yes_no_or_warn(value: Any) -> Any:
    if value is not None and not isinstance(value, bool) and value != "warn":
        raise ValueError("should be true, false or warn")
    return value


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value >= 0


Number = Annotated[Any, AfterValidator(_number)]
Limit = Annotated[int, AfterValidator(_epochs)]


class TrainerArguments(TypedDict, total=False):
    """Arguments that Lightning does not check, or too late; it has more than these."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]  # pydantic's way for a TypedDict

    logger: Annotated[Any, _owned("logger")]
    callbacks: Annotated[Any, _owned("callbacks")]
    default_root_dir: Annotated[Any, _owned("default_root_dir")]
    barebones: Annotated[Any, _owned("barebones")]
    enable_checkpointing: Annotated[Any, _owned("enable_checkpointing")]
    max_epochs: Limit | None
    min_epochs: NonNegativeInt | None
    max_steps: Limit
    min_steps: NonNegativeInt | None
    max_time: Annotated[Any, AfterValidator(_duration)]
    fast_dev_run: Annotated[Any, AfterValidator(_batches)]
    limit_train_batches: Number
    limit_val_batches: Number
    limit_test_batches: Number
    limit_predict_batches: Number
    overfit_batches: Number
    gradient_clip_val: Number
    val_check_interval: Annotated[Any, AfterValidator(_interval)]
    check_val_every_n_epoch: PositiveInt | None
    num_sanity_val_steps: Annotated[int, AfterValidator(lambda steps: max(steps, -1))]
    log_every_n_steps: PositiveInt
    accumulate_grad_batches: PositiveInt
    reload_dataloaders_every_n_epochs: NonNegativeInt
    num_nodes: PositiveInt
    enable_progress_bar: bool | None
    enable_model_summary: bool | None
    deterministic: Annotated[Any, AfterValidator(_yes_no_or_warn)]
    benchmark: bool | None
    inference_mode: bool
    use_distributed_sampler: bool
    detect_anomaly: bool
    sync_batchnorm: bool


@cache
def argument_names() -> tuple[str, ...]:
    """The Trainer's arguments, read from its file: importing Lightning takes seconds."""
    package = find_spec("pytorch_lightning")
    assert package is not None and package.origin is not None
    tree = ast.parse((Path(package.origin).parent / "trainer" / "trainer.py").read_text())
    trainer = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Trainer")
    methods = (n for n in trainer.body if isinstance(n, ast.FunctionDef))
    begin = next(n for n in methods if n.name == "__init__")
    return tuple(argument.arg for argument in begin.args.kwonlyargs)


def no_argument(name: str) -> str:
    """What is said of a name that the Trainer does not have."""
    near = get_close_matches(name, argument_names(), n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(argument_names())}"
    return f"trainer.{name} is not an argument of Lightning's Trainer: {hint}"


def check_names(trainer: Mapping[str, Any]) -> None:
    """UserError for a name that the Trainer does not have, and for a training without an end."""
    wrong = [name for name in trainer if name not in argument_names()]
    if wrong:
        raise UserError("; ".join(map(no_argument, wrong)))
    if trainer.get("max_epochs") == -1 and not has_other_limit(trainer):
        raise UserError(f"trainer.max_epochs=-1 is refused: {NO_LIMIT}")


def has_other_limit(trainer: Mapping[str, Any]) -> bool:
    """Whether steps or time limit the training."""
    return bool(trainer.get("max_time")) or trainer.get("max_steps") not in (None, -1)


def limit_epochs(cfg: DictConfig, typed: set[str], written: Callable[[], DictConfig]) -> None:
    """Lifts max_epochs where max_steps is given nearer to the person: it is to end the training then.

    typed: the names on the command line
    written: reads the experiment's own config.yaml
    """
    steps = OmegaConf.select(cfg, "trainer.max_steps", default=-1)
    if steps in (None, -1) or typed & EPOCHS:
        return
    if "trainer.max_steps" not in typed:
        own = written()
        if any(OmegaConf.select(own, name) is not None for name in EPOCHS):
            return
    with flag_override(cfg, "readonly", False):
        for name in EPOCHS:
            OmegaConf.update(cfg, name, -1)


def trainer_arguments(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments to make a Trainer with, without those that a tracked run decides.

    `fast_dev_run` means one epoch of as many batches of each loader: Lightning's own keeps no checkpoint.
    """
    given = {name: value for name, value in trainer.items() if name not in RESERVED}
    batches = int(given.pop("fast_dev_run", False))
    if batches:
        for name in ("min_epochs", "min_steps", "max_time", "check_val_every_n_epoch"):
            given.pop(name, None)
        given |= {f"limit_{split}_batches": batches for split in SPLITS}
        given |= {"max_epochs": 1, "max_steps": -1, "val_check_interval": 1.0}
    return given


def check_trainer_arguments(trainer: Mapping[str, Any]) -> None:
    """UserError for values that Lightning refuses; asked only where the program has imported it."""
    arguments = trainer_arguments(trainer)
    refusal = _refusal(arguments)
    if refusal is None:
        return
    for name, value in arguments.items():
        alone = _refusal({name: value})
        if alone is not None:
            typed = "null" if value is None else value
            raise UserError(f"trainer.{name}={typed} is refused: {alone}")
    raise UserError(f"these trainer arguments don't go together: {refusal}")


def _refusal(arguments: dict[str, Any]) -> str | None:
    """Why Lightning makes no Trainer of these; None if it does."""
    lightning = sys.modules.get("pytorch_lightning")
    if lightning is None:
        return None
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    log = logging.getLogger("pytorch_lightning")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            lightning.Trainer(**{**arguments, **quiet, "enable_model_summary": False})
    except Exception as error:  # whatever Lightning, torch or a plugin says of a value
        return one_line(error) or type(error).__name__
    finally:
        log.setLevel(level)
    return None
