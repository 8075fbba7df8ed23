"""Where log lines go: short ones to the terminal, full ones to `logs/logging_/`."""

import logging
import os
import shutil
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from src.utils.paths import Experiment

from rich import get_console
from rich.markup import escape

STYLES = {logging.WARNING: "yellow", logging.ERROR: "bold red", logging.CRITICAL: "bold red"}


class TerminalHandler(logging.Handler):
    """Prints through rich, so that lines and progress bars share the screen in peace."""

    def __init__(
        self, stream: Any = None
    ) -> None:  # Hydra's default handler has a stream; we don't
        super().__init__()

    def emit(self, record: logging.LogRecord) -> None:
        style = STYLES.get(record.levelno, "")
        line = escape(self.format(record))
        get_console().print(line, style=style, highlight=False, soft_wrap=True)


class FileHandler(logging.FileHandler):
    """A log file whose folder is made when it is missing."""

    def __init__(self, filename: str) -> None:
        Path(filename).parent.mkdir(parents=True, exist_ok=True)
        super().__init__(filename)


def log_file() -> Path | None:
    """The file that this process logs to, if any."""
    files = [h for h in logging.getLogger().handlers if isinstance(h, logging.FileHandler)]
    return Path(files[0].baseFilename) if files else None


def print_from_signal_handler(text: str) -> None:
    """For signal handlers: they may come in the middle of a print, and nothing must be printed there."""
    os.write(2, f"{text}\n".encode())


def format_metric(value: float | None) -> str:
    """A metric: `0.9871`, `3.2e-05`, `1200`; empty where there is none."""
    if value is None:
        return ""
    if float(value).is_integer() and abs(value) >= 10:
        return f"{value:.0f}"
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.3g}"


def format_settings(params: Mapping[str, Any]) -> str:
    """`learning_rate=0.0012 hidden=64`"""
    return " ".join(f"{name}={format_value(str(value))}" for name, value in params.items())


def format_value(value: str) -> str:
    """A number in four digits; anything else as it is."""
    try:
        number = float(value)
    except ValueError:
        return value
    return value if len(value) <= 6 else f"{number:.4g}"


def format_duration(time: timedelta | None) -> str:
    """`8 s`, `2 min 5 s`, `3 h 20 min`"""
    seconds = round(time.total_seconds()) if time else 0
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes} min {seconds} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def format_time(moment: datetime | None) -> str:
    """`11-23 09:30`; the year instead of the time where it is another one."""
    if moment is None:
        return ""
    this_year = moment.year == datetime.now().year
    return f"{moment:%m-%d %H:%M}" if this_year else f"{moment:%Y-%m-%d}"


def format_size(count: int) -> str:
    """Bytes: `512 B`, `2.5 MB`"""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"


def python_command() -> str:
    """How the environment's Python is called here."""
    return "poetry run python" if shutil.which("poetry") else ".venv/bin/python"


def lab_command() -> str:
    """How the lab command is called here."""
    return "poetry run lab" if shutil.which("poetry") else ".venv/bin/lab"


def run_command(experiment: Experiment) -> str:
    """Runs an experiment."""
    return f"{python_command()} src/{experiment}/{experiment.program().name}"


def reload_command(reference: str, checkpoint: str = "best") -> str:
    """Loads the model of a run."""
    which = "" if checkpoint == "best" else f', checkpoint="{checkpoint}"'
    code = f'from src.utils.tracking import load_model; print(load_model("{reference}"{which}))'
    return f"{python_command()} -c '{code}'"


def copy_command(experiment: Experiment) -> str:
    """Starts the next experiment."""
    new = experiment.next()
    return " && ".join(f"cp -r {top}/{experiment} {top}/{new}" for top in ("src", "config"))


def print_hints(commands: dict[str, str]) -> None:
    """Print them, each with what it is for."""
    width = max(map(len, commands))
    for what, command in commands.items():
        line = f"[bold]{what:{width}}[/]  {escape(command)}"
        get_console().print(line, highlight=False, soft_wrap=True)


# MERGED execution/wording: How figures are written for people: metrics, settings, times and sizes.

# MERGED execution/commands: The commands that a person may want to type next, as they are typed here.
