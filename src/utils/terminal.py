"""Terminal output: log handlers, formatting of values, and commands to type next.

Log lines go to the terminal without time and name, and with both to a file in `logs/logging_/`.
config/utils/hydra.yaml names the two handlers.
"""

import logging
import os
import shutil
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from src.utils.paths import Experiment
from src.utils.store.location import local_database

from rich import get_console
from rich.markup import escape

IMAGE = "JIKKEN_VENV"  # environment variable of a container, whose packages are on the PATH
# rich's style of each log level
STYLES = {logging.WARNING: "yellow", logging.ERROR: "bold red", logging.CRITICAL: "bold red"}


# Log handlers


class TerminalHandler(logging.Handler):
    """Prints log records through rich, which keeps progress bars and live tables intact."""

    def __init__(self, stream: Any = None) -> None:
        # Hydra's default config gives each handler a stream; rich has its own
        super().__init__()

    def emit(self, record: logging.LogRecord) -> None:
        style = STYLES.get(record.levelno, "")
        line = escape(self.format(record))
        get_console().print(line, style=style, highlight=False, soft_wrap=True)


class FileHandler(logging.FileHandler):
    """Writes log records to a file, and makes its folder if it is missing."""

    def __init__(self, filename: str) -> None:
        Path(filename).parent.mkdir(parents=True, exist_ok=True)
        super().__init__(filename)


def log_file() -> Path | None:
    """The file that this process logs to, if any."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            return Path(handler.baseFilename)
    return None


def print_from_signal_handler(text: str) -> None:
    """Print a line from a signal handler, which may interrupt another print and so must not use `print`."""
    os.write(2, f"{text}\n".encode())


# Formatting of values


def format_metric(value: float | None) -> str:
    """A metric: `0.9871`, `3.2e-05`, `1200`; empty for None."""
    if value is None:
        return ""
    if float(value).is_integer() and abs(value) >= 10:
        return f"{value:.0f}"
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.3g}"


def format_spread(mean: float, spread: float, count: int) -> str:
    """A metric of a group, mean ± standard deviation (number of members): `0.9871 ± 0.0012 (5)`"""
    return f"{format_metric(mean)} ± {format_metric(spread)} ({count})"


def format_settings(params: Mapping[str, Any]) -> str:
    """Settings or parameters on one line: `learning_rate=0.0012 hidden=64`"""
    return " ".join(f"{name}={format_value(str(value))}" for name, value in params.items())


def format_value(value: str) -> str:
    """Text of a setting: a number in four digits, anything else unchanged."""
    try:
        number = float(value)
    except ValueError:
        return value
    return value if len(value) <= 6 else f"{number:.4g}"


def format_duration(time: timedelta | None) -> str:
    """A duration: `8 s`, `2 min 5 s`, `3 h 20 min`"""
    seconds = round(time.total_seconds()) if time else 0
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes} min {seconds} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def format_age(moment: datetime | None) -> str:
    """How long ago something was: `just now`, `5 min ago`, `3 h ago`, `2 days ago`"""
    seconds = (datetime.now().astimezone() - moment).total_seconds() if moment else 0
    for length, unit in ((86400, "day"), (3600, "h"), (60, "min")):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' * (unit == 'day' and count > 1)} ago"
    return "just now"


def format_time(moment: datetime | None) -> str:
    """A date and time: `11-23 09:30`, or `2025-11-23` if it is in another year; empty for None."""
    if moment is None:
        return ""
    this_year = moment.year == datetime.now().year
    return f"{moment:%m-%d %H:%M}" if this_year else f"{moment:%Y-%m-%d}"


def format_size(size: int) -> str:
    """A number of bytes: `512 B`, `2.5 MB`"""
    value, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"


# Commands to type next


def python_command() -> str:
    """The command that calls the environment's Python."""
    if IMAGE in os.environ:
        return "python"
    return "poetry run python" if shutil.which("poetry") else ".venv/bin/python"


def lab_command() -> str:
    """The command that calls `lab`."""
    if IMAGE in os.environ:
        return "lab"
    return "poetry run lab" if shutil.which("poetry") else ".venv/bin/lab"


def run_command(experiment: Experiment) -> str:
    """The command that runs an experiment.

    Raises:
        UserError: the experiment has no program, or several.
    """
    return f"{python_command()} src/{experiment}/{experiment.program().name}"


def reload_command(reference: str, checkpoint: str = "best") -> str:
    """The command that loads the model of a run.

    Args:
        reference: what names the run, such as its id
    """
    option = "" if checkpoint == "best" else f', checkpoint="{checkpoint}"'
    option += "" if local_database() is not None else ", trust_source=True"
    code = f'from src.utils.tracking import load_model; print(load_model("{reference}"{option}))'
    return f"{python_command()} -c '{code}'"


def copy_command(experiment: Experiment) -> str:
    """The command that copies an experiment to the next free name."""
    new = experiment.next()
    return " && ".join(f"cp -r {top}/{experiment} {top}/{new}" for top in ("src", "config"))


def print_hints(commands: dict[str, str]) -> None:
    """Print commands to type next, each after its purpose.

    Args:
        commands: purpose -> command
    """
    width = max(map(len, commands))
    for purpose, command in commands.items():
        line = f"[bold]{purpose:{width}}[/]  {escape(command)}"
        get_console().print(line, highlight=False, soft_wrap=True)
