"""The leaderboard: runs in a table, with what makes them differ."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from src.utils.execution.wording import figure, spelled, when
from src.utils.lab.condition import Condition, column
from src.utils.store.entry import Entry
from src.utils.store.finding import aim_of, models, runs_of
from src.utils.store.ledger import Ledger
from src.utils.store.objective import Objective, objective, results

from rich import box, get_console
from rich.markup import escape
from rich.table import Table

STYLES = {"failed": "red", "killed": "red", "running": "yellow", "pruned": "dim"}
RUN, WHEN, FIGURE, METRIC = 20, 11, 6, 16  # columns of a run's name, its time, a figure, a metric
SAID = 18  # columns, at least, of what a run differs in
WIDE = 100  # columns of a terminal that has room for more metrics
# Settings that change no result.
NOT_CHANGES = ("note", "tags", "stale", "resume", "resume_run", "fork")


@dataclass(frozen=True)
class Wish:
    """What to list."""

    experiment: str | None = None
    where: Sequence[str] = ()
    sort: str | None = None
    limit: int = 20


def chosen(ledger: Ledger, wish: Wish) -> tuple[list[Entry], int]:
    """The runs to list, with all their values, and how many there would be without a limit."""
    entries = runs_of(ledger, wish.experiment) if wish.experiment else models(ledger)
    for text in wish.where:
        entries = Condition.parse(text).among(ledger, entries)
    if wish.sort:
        entries = _sorted(ledger, entries, wish.sort)
    return ledger.filled(entries[: wish.limit or None]), len(entries)


def _sorted(ledger: Ledger, entries: list[Entry], by: str) -> list[Entry]:
    """The best first, by what the metric is for (`-loss`: the other way round); then what has none."""
    name, backwards = by.removeprefix("-"), by.startswith("-")
    values = column(ledger, entries, name)
    aim = aim_of(ledger, entries)
    if aim is None or aim.metric != name:
        aim = Objective.of(name)
    aim = Objective(name, aim.maximize != backwards)
    return sorted(entries, key=lambda one: (aim.rank(_number(values.get(one.id))), one.id))


def _number(value: float | str | None) -> float | str | None:
    try:
        return float(value) if value is not None else None
    except ValueError:
        return None


def say_runs(entries: list[Entry], total: int, wish: Wish) -> None:
    """Print the table, two lines a run."""
    console = get_console()
    shown = _metrics(entries, wish, console.width)
    changes, marks = differences(entries), data_marks(entries)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("run", no_wrap=True, max_width=RUN)
    table.add_column("when", no_wrap=True)
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True, max_width=METRIC)
    table.add_column("differs in, and why", ratio=1, overflow="fold")
    for one in entries:
        run = f"{one.name}\n{one.short}{'*' if one.is_dirty else ''}"
        figures = [figure(one.metrics.get(name)) for name in shown]
        differs = " ".join(part for part in (marks[one.id], spelled(changes[one.id])) if part)
        said = "\n".join(part for part in (differs, why(one)) if part)
        cells = (run, f"{when(one.started)}\n{one.state}", *figures, said)
        table.add_row(*map(escape, cells), style=STYLES.get(one.state, ""))
    console.print(table)
    console.print(_caption(entries, total), style="dim", highlight=False)


def _caption(entries: list[Entry], total: int) -> str:
    of = f"{len(entries)} of {total:,}" if total > len(entries) else f"{total}"
    marks = ["* with uncommitted changes"] if any(one.is_dirty for one in entries) else []
    return " · ".join([f"{of} run{'s' * (total != 1)}", *marks])


def _metrics(entries: list[Entry], wish: Wish, width: int) -> list[str]:
    """Those that matter most: what was sorted by, what the runs are after, and the same on test data;
    as many as leave room for what differs."""
    known = {name for one in entries for name in one.metrics}
    aim = objective(entries)
    sort = [(wish.sort or "").removeprefix("-")]
    names = [*sort, *(aim.partners if aim else []), *results(known)]
    names = [name for name in dict.fromkeys(names) if name in known]
    room = width - RUN - WHEN - SAID - 3
    taken = list(accumulate(min(max(len(name), FIGURE), METRIC) + 1 for name in names))
    fitting = sum(columns <= room for columns in taken)
    return names[: min(fitting, 2 if width < WIDE else 4)]


def data_marks(entries: Sequence[Entry]) -> dict[str, str]:
    """By run id, what is said of its data (`[sample]`), where the runs differ in it."""
    said = {one.id: data_said(one) for one in entries}
    differ = len({said[one.id] for one in entries if not one.is_study}) > 1
    return {run_id: text if differ else "" for run_id, text in said.items()}


def data_said(one: Entry) -> str:
    """`[sample]`, `[full, size=2]`: the facts of the data that a run read; empty without any."""
    facts = {name[5:]: text for name, text in one.tags.items() if name.startswith("data.")}
    said = [text if name == "source" else f"{name}={text}" for name, text in facts.items()]
    return f"[{', '.join(sorted(said))}]" if said else ""


def differences(entries: Sequence[Entry]) -> dict[str, dict[str, str]]:
    """By run id, the params in which the runs differ among each other."""
    runs = [one for one in entries if one.params]
    names = dict.fromkeys(key for one in runs for key in one.params)
    varied = [name for name in names if len({one.params.get(name) for one in runs}) > 1]
    top = [name for name in varied if "." not in name and name not in NOT_CHANGES]
    inner = [name for name in varied if "." in name and name.split(".")[-1] not in top]
    return {
        one.id: {name: one.params[name] for name in top + inner if name in one.params}
        for one in entries
    }


def why(one: Entry) -> str:
    """The note, its tags, and for a failed trial the reason, on one line."""
    labels = " ".join(f"#{label}" for label in one.labels)
    reason = one.tags.get("reason", "")
    study = "a study" if one.is_study else ""
    said = " ".join(part for part in (one.note, labels, reason, study) if part)
    return said if len(said) <= 120 else f"{said[:119]}…"


def as_json(entries: list[Entry]) -> str:
    """For programs."""
    return json.dumps([plain(one) for one in entries], indent=2)


def plain(one: Entry) -> dict[str, Any]:
    """A run as JSON has it."""
    return {
        "id": one.id,
        "name": one.name,
        "experiment": one.experiment,
        "status": one.state,
        "started": one.started.isoformat() if one.started else None,
        "seconds": one.seconds,
        "note": one.note,
        "labels": one.labels,
        "dirty": one.is_dirty,
        "metrics": one.metrics,
        "params": one.params,
        "tags": one.tags,
        "artifacts": one.location,
    }
