"""The progress of a transfer: a bar, which appears where it takes more than two seconds."""

import time
from types import TracebackType

from src.utils.terminal import format_size

from rich import get_console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

PATIENCE = 2.0  # seconds


class TransferProgress:
    """Counts runs and bytes, and shows them on a terminal."""

    def __init__(self, total: int) -> None:
        self.done, self.size, self.total = 0, 0, total
        self._due = time.monotonic() + PATIENCE
        columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        self._bar = Progress(*columns, console=get_console(), transient=True)
        self._task = self._bar.add_task("", total=total)

    @property
    def said(self) -> str:
        """How far it has come, where it ends early."""
        return f"{self.done} of {self.total} runs have arrived; type it again to go on"

    def advance(self) -> None:
        """Count a run that has arrived."""
        self.done += 1
        self._show()

    def report(self, size: int) -> None:
        """Count bytes that have arrived."""
        self.size += size
        self._show()

    def _show(self) -> None:
        if time.monotonic() > self._due and get_console().is_terminal:
            self._bar.start()
            text = f"{self.done} of {self.total} runs, {format_size(self.size)}"
            self._bar.update(self._task, completed=self.done, description=text)

    def __enter__(self) -> "TransferProgress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar.live.is_started:
            self._bar.stop()
