"""The output of a group on the terminal: a line for each member that has ended, and a bar."""

import logging
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from src.utils.runs.member import Member
from src.utils.terminal import format_duration, format_metric

from rich import get_console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger(__name__)


class MemberProgress:
    """Logs a line for each member; on a terminal it shows `bar` as well, which the caller starts and stops.

    Args:
        finished: how many members are finished already.
        at_a_time: how many run at the same time.
    """

    def __init__(self, members: Sequence[Member], finished: int, at_a_time: int) -> None:
        self.width = max(len(member.name) for member in members)
        self.began = time.monotonic()
        self.bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("members"),
            TimeRemainingColumn(),
            console=get_console(),
            transient=True,
            disable=not get_console().is_terminal,
        )
        self.task = self.bar.add_task("members", total=len(members), completed=finished)
        kept = f", {finished} of them finished already" if finished else ""
        log.info("a group of %d runs%s, %d at a time", len(members), kept, at_a_time)

    def on_member_end(self, member: Member, value: Any, reason: str) -> None:
        """Log how a member has ended, after how long."""
        result = format_metric(value) if isinstance(value, int | float) else ""
        since = format_duration(timedelta(seconds=time.monotonic() - self.began))
        parts = (f"{member.name:{self.width}}", f"failed  {reason}" if reason else result)
        level = logging.WARNING if reason else logging.INFO
        log.log(level, "  ".join(filter(None, (*parts, f"after {since}"))))
        self.bar.advance(self.task)
