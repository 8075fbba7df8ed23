"""How a failure of an experiment's own `main` is told.

What a library refuses while data, model and trainer are made is mostly a setting: one line, with the
line of the experiment that asked for it. A mistake in the experiment's code, and whatever happens while it
trains, keeps its traceback, which begins in the experiment. The whole one is always in the run's files.
"""

from pathlib import Path
from traceback import walk_tb
from types import TracebackType

from src.utils.errors import one_line

VALUES = (RuntimeError, ValueError, OSError, MemoryError, ArithmeticError)
LIGHTNING = "MisconfigurationException"  # by name: Lightning may not have been imported
LOOPS = "pytorch_lightning.loops"


def wrong_value(error: Exception, file: Path) -> str | None:
    """The line for an error that a library raised outside a training; None for any other."""
    if not isinstance(error, VALUES) and type(error).__name__ != LIGHTNING:
        return None
    frames = list(walk_tb(error.__traceback__))
    own = [at for at in frames if Path(at[0].f_code.co_filename).is_relative_to(file.parent)]
    if not own or own[-1] is frames[-1]:
        return None
    if any(str(frame.f_globals.get("__name__")).startswith(LOOPS) for frame, _ in frames):
        return None
    frame, number = own[-1]
    place = f"{Path(frame.f_code.co_filename).name}:{number}"
    notes = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
    return f"{type(error).__name__}: {one_line(error)} ({place}{notes})"


def from_file(file: Path, frames: TracebackType | None) -> TracebackType | None:
    """A traceback that begins in the experiment, without Hydra's own frames."""
    inner = frames.tb_next if frames else None  # the first is always the file: its last line
    while inner and inner.tb_frame.f_code.co_filename != str(file):
        inner = inner.tb_next
    return inner or frames
