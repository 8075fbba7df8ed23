"""Errors as users see them: one line for a mistake they can fix, a traceback for a bug.

An error that a library raises while data, model and trainer are made is usually caused by a setting.
It becomes one line, with the line of the experiment that called the library. An error in the experiment's
own code, or during training, keeps its traceback, which begins in the experiment. The run's
`logs/traceback.txt` always has the whole traceback.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from types import TracebackType
from typing import Any

VALUE_ERRORS = (RuntimeError, ValueError, OSError, MemoryError, ArithmeticError)
LIGHTNING_ERROR = "MisconfigurationException"  # by name: Lightning may not have been imported
TRAINING_LOOPS = "pytorch_lightning.loops"


class UserError(Exception):
    """A mistake that the user can fix. The message is one line: what is wrong, what to do."""


def one_line(text: object) -> str:
    """Join the lines of a message."""
    return " ".join(str(text).split())


def first_line(error: BaseException) -> str:
    """The first line of an exception, or of the database driver's error that it wraps."""
    return str(getattr(error, "orig", None) or error).strip().split("\n")[0]


def format_error(error: Any) -> str:
    """An exception in one line: of a UserError its message, of another with its type before it."""
    text, kind = one_line(error), type(error).__name__
    if isinstance(error, UserError):
        return text
    return f"{kind}: {text}" if text else kind


class ProcessLost(Exception):
    """Another process of a distributed training has ended, so that this one can't go on."""


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Print a UserError as one line and exit with status 2. Other exceptions keep their traceback."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)


def library_error_line(error: Exception, program: Path) -> str | None:
    """Describe an error in one line, if a library raised it and a setting may be the cause.

    Args:
        program: file of the experiment, whose folder has all of the experiment's code

    Returns:
        None if the error has another type, or was raised by the experiment's own code or during training.
    """
    if isinstance(error, ProcessLost):
        return "; ".join([one_line(error), *getattr(error, "__notes__", ())])
    if not isinstance(error, VALUE_ERRORS) and type(error).__name__ != LIGHTNING_ERROR:
        return None
    frames = list(walk_tb(error.__traceback__))
    folder = program.parent
    own = [item for item in frames if Path(item[0].f_code.co_filename).is_relative_to(folder)]
    if not own or own[-1] is frames[-1]:
        return None
    if any(str(frame.f_globals.get("__name__")).startswith(TRAINING_LOOPS) for frame, _ in frames):
        return None
    frame, line = own[-1]
    location = f"{Path(frame.f_code.co_filename).name}:{line}"
    notes = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
    return f"{type(error).__name__}: {one_line(error)} ({location}{notes})"


def traceback_from(program: Path, traceback: TracebackType | None) -> TracebackType | None:
    """The part of a traceback that begins in the experiment, without Hydra's frames."""
    inner = traceback.tb_next if traceback else None  # the first frame is the file's last line
    while inner and inner.tb_frame.f_code.co_filename != str(program):
        inner = inner.tb_next
    return inner or traceback
