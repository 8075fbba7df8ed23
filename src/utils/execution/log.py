"""Where log lines go: short ones to the terminal, full ones to `logs/logging_/`."""

import logging
import os
from pathlib import Path
from typing import Any

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


def say_at_once(text: str) -> None:
    """For signal handlers: they may come in the middle of a print, and nothing must be printed there."""
    os.write(2, f"{text}\n".encode())
