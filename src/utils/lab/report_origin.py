"""Where the results of a report come from: data, code and machines, and the commands that repeat them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from src.utils.lab.diff import changed_files
from src.utils.lab.report_runs import Subject
from src.utils.lab.runs import data_metadata
from src.utils.lab.show import machine_lines, repeat_command
from src.utils.store.reader import RunReader, trace_lineage
from src.utils.store.record import RunRecord
from src.utils.terminal import format_settings

MOST_COMMANDS = 20
What = TypeVar("What")


@dataclass(frozen=True)
class Shared(Generic[What]):
    """What some of the runs have in common."""

    what: What
    runs: list[RunRecord]


@dataclass(frozen=True)
class Ancestor:
    """Data in the lineage of a run; those from which it was made follow it."""

    depth: int
    name: str
    digest: str
    maker: str  # the run that made it


@dataclass(frozen=True)
class Data:
    """All data that a run stands on, and what is told of them."""

    lineage: tuple[Ancestor, ...]
    metadata: str


@dataclass(frozen=True)
class Code:
    """The code of a run."""

    commit: str
    branch: str
    changed: tuple[str, ...]  # files with uncommitted changes


@dataclass(frozen=True)
class Command:
    """How a run was typed, and how it is repeated."""

    run: RunRecord
    typed: str
    repeat: str


def read_data(reader: RunReader, subject: Subject) -> list[Shared[Data]]:
    """The data of the runs, back to the raw files."""
    names = {run.id: f"{run.name} ({run.short})" for run in reader.runs()}

    def data(run: RunRecord) -> Data:
        one = subject.members.get(run.id, [run])[:1] or [run]  # all members have read the same
        found = [*trace_lineage(reader, run.id)] or trace_lineage(reader, one[0].id)
        lineage = tuple(
            Ancestor(ancestor.depth, used.name, used.digest, names.get(used.run_id, used.run_id))
            for ancestor in found
            for used in (ancestor.dataset,)
        )
        return Data(lineage, format_settings(data_metadata(run)))

    return [one for one in _shared(subject.runs, data) if one.what.lineage]


def read_code(subject: Subject) -> list[Shared[Code]]:
    """Commit, branch and changed files of the runs."""
    return _shared(
        subject.runs,
        lambda run: Code(run.commit, run.branch, tuple(changed_files(run)) if run.is_dirty else ()),
    )


def read_machines(subject: Subject) -> list[Shared[tuple[str, ...]]]:
    """Hardware and main packages of the runs."""
    return _shared(subject.runs, lambda run: tuple(machine_lines(run)))


def _shared(runs: Sequence[RunRecord], read: Callable[[RunRecord], What]) -> list[Shared[What]]:
    found: dict[What, list[RunRecord]] = {}
    for run in runs:
        found.setdefault(read(run), []).append(run)
    return [Shared(what, some) for what, some in found.items()]


def read_commands(subject: Subject) -> list[Command]:
    """The commands of the runs, of trials only that of the best one."""
    runs = [run for run in subject.runs if run == subject.best or "optuna.trial" not in run.tags]
    return [
        Command(run, run.tags.get("command", ""), repeat_command(run))
        for run in runs[:MOST_COMMANDS]
    ]
