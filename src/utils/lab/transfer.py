"""What `lab push` and `lab pull` have in common: which runs are chosen, and what is printed at the end."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from src.utils.errors import UserError
from src.utils.lab.runs import Query, select_runs
from src.utils.store.reference import find_record, list_runs
from src.utils.terminal import format_size
from src.utils.transfer.listed import ListedReader
from src.utils.transfer.move import LEFT_DELETED, NEW, UNCHANGED, UPDATED, Moved, move
from src.utils.transfer.place import Place
from src.utils.transfer.portable import ACTIVE, STUDY, PortableRun
from src.utils.transfer.related import with_related

from rich import get_console
from rich.markup import escape
from rich.table import Table

AGO = re.compile(r"(\d+)([dh])")  # 7d, 12h
WORDS = {
    NEW: "new",
    UPDATED: "brought up to date",
    UNCHANGED: "there already",
    LEFT_DELETED: "deleted there",
}


@dataclass(frozen=True)
class Choice:
    """Which runs are transferred; all if nothing is given."""

    references: Sequence[str] = ()
    experiment: str | None = None
    where: Sequence[str] = ()
    since: str | None = None

    def among(self, runs: Sequence[PortableRun]) -> list[PortableRun]:
        """The chosen runs, and those that belong to them; deleted runs are left out.

        Raises:
            UserError: a reference, filter, experiment or date means nothing, or none of the runs is chosen.
        """
        active = [run for run in runs if run.lifecycle == ACTIVE]
        if self.references and (self.experiment or self.where or self.since):
            raise UserError("runs by name and --experiment, --where or --since exclude each other")
        chosen = self._ids(ListedReader(active))
        if self.since:
            start = parse_since(self.since)
            chosen &= {run.id for run in active if run.activity >= start.timestamp() * 1000}
        if not chosen:
            raise UserError("no run is chosen: leave out a --where, or take an earlier --since")
        return with_related(active, chosen)

    def _ids(self, reader: ListedReader) -> set[str]:
        if self.references:
            return {find_record(one, reader=reader).id for one in self.references}
        if self.where:
            records = select_runs(reader, Query(self.experiment, self.where, limit=0)).records
        else:
            records = list_runs(reader, self.experiment)
        return {run.id for run in records}


def parse_since(text: str) -> datetime:
    """The moment that `--since` means: a date, a date and time, or a number of days or hours ago.

    Raises:
        UserError: the text is none of these.
    """
    if ago := AGO.fullmatch(text):
        hours = int(ago[1]) * (24 if ago[2] == "d" else 1)
        return datetime.now().astimezone() - timedelta(hours=hours)
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise UserError(f"--since {text}: write a date (2026-11-01), 7d or 12h") from None


@dataclass(frozen=True)
class Transferred:
    """What a transfer has done, and from where to where."""

    source: str
    target: str
    moved: Moved
    dry_run: bool
    left: Sequence[str] = ()  # kinds of files that stay where they are

    def as_dict(self) -> dict[str, Any]:
        """What --json prints."""
        moved = self.moved
        return {
            "from": self.source,
            "to": self.target,
            "dry_run": self.dry_run,
            "runs": moved.runs,
            "files": moved.artifacts.files,
            "bytes": moved.artifacts.size,
            "studies": moved.studies,
            "data": {name: copied.size for name, copied in moved.data.items()},
            "commits": moved.commits,
        }


def transfer(
    source: Place, target: Place, choice: Choice, with_data: bool, dry_run: bool
) -> Transferred:
    """Bring the chosen runs of one place to another.

    Raises:
        UserError: the source has no runs, or none is chosen; one of the places can't be read or written to.
    """
    runs = source.runs()
    if not runs:
        raise UserError(f"{source.name} has no runs yet")
    chosen = choice.among(runs)
    moved = move(source, target, chosen, with_data, dry_run)
    kinds = {"studies": any(STUDY in run.tags for run in chosen), "data": with_data}
    left = [] if source.keeps_files and target.keeps_files else [one for one in kinds if kinds[one]]
    return Transferred(source.name, target.name, moved, dry_run, left)


def print_moved(done: Transferred) -> None:
    """Print what was moved, or that nothing was to be done."""
    console, rows = get_console(), _rows(done)
    if [name for name, _ in rows] == [WORDS[UNCHANGED]]:
        console.print(f"nothing to do: {rows[0][1]}, all there already", highlight=False)
        return
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*map(escape, row))
    would = "would go " * done.dry_run
    title = f"{would}from {escape(done.source)} to {escape(done.target)}"
    console.print(f"[bold]{title}[/]", highlight=False, soft_wrap=True)
    console.print(table, highlight=False)
    if done.left:
        kinds = " and ".join(done.left)
        hint = f"{kinds} stay where they are: an MLflow server has no place for them"
        console.print(hint, style="dim", highlight=False, soft_wrap=True)
    if deleted := [run for run, kind in done.moved.runs.items() if kind == LEFT_DELETED]:
        hint = f"deleted runs stay deleted: mlflow runs restore --run-id {deleted[0]}"
        console.print(hint, style="dim", highlight=False, soft_wrap=True)


def _rows(done: Transferred) -> list[tuple[str, str]]:
    moved = done.moved
    rows = [(word, _count(moved.count(kind), "run")) for kind, word in WORDS.items()]
    if moved.artifacts.files:
        files, size = moved.artifacts
        rows.append(("files", f"{_count(files, 'file')}, {format_size(size)}"))
    for kind, names in (("studies", moved.studies), ("commits", moved.commits)):
        rows.append((kind, str(len(names) or "")))
    for name, copied in moved.data.items():
        rows.append((name, format_size(copied.size)))
    return [(name, text) for name, text in rows if text]


def _count(number: int, word: str) -> str:
    """`1 run`, `12 runs`; empty for none."""
    return f"{number:,} {word}{'s' * (number != 1)}" if number else ""
