"""The leaderboard: runs in a table, with what makes them differ."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import accumulate
from typing import Any

from src.utils.errors import UserError
from src.utils.store.objective import Objective, objective, results
from src.utils.store.reader import Entry, Ledger, Value
from src.utils.store.reference import aim_of, models, runs_of
from src.utils.terminal import figure, spelled, when

from rich import box, get_console
from rich.markup import escape
from rich.table import Table

STYLES = {"failed": "red", "killed": "red", "running": "yellow", "pruned": "dim"}
RUN, WHEN, FIGURE, METRIC = 20, 11, 6, 16  # columns of a run's name, its time, a figure, a metric
SAID = 18  # columns, at least, of what a run differs in
WIDE = 100  # columns of a terminal that has room for more metrics
# Settings that change no result.
NOT_CHANGES = ("note", "tags", "stale", "resume", "resume_run", "fork")
FORM = re.compile(r"\s*([\w./\-]+)\s*(?:(<=|>=|!=|==|=|<|>|~)\s*(.*?)\s*)?", re.DOTALL)
NAMED = {  # for what has a longer name in MLflow
    "note": "mlflow.note.content",
    "dirty": "git.dirty",
    "commit": "mlflow.source.git.commit",
    "study": "optuna.study",
    "trial": "optuna.trial",
}
ATTRIBUTES = ("id", "name", "status", "experiment")
NOT_COMPARED = ("seed", "note", "tags", "stale", "resume", "resume_run", "fork", "force")


@dataclass(frozen=True)
class Condition:
    """A name alone asks whether it is there and not false."""

    name: str
    operator: str
    value: str

    @classmethod
    def parse(cls, text: str) -> "Condition":
        match = FORM.fullmatch(text)
        if match is None or (match[2] and not match[3]):
            raise UserError(
                f"{text!r} is no condition: write one like learning_rate>0.001, status=failed, "
                "note~dropout, or a tag alone"
            )
        return cls(match[1], match[2] or "", match[3] or "")

    def among(self, ledger: Ledger, entries: list[Entry]) -> list[Entry]:
        """The runs of which it is true."""
        values = column(ledger, entries, self.name)
        return [one for one in entries if one.id in values and self.holds(values[one.id])]

    def holds(self, value: Value) -> bool:
        """Numbers are compared as numbers; words by =, != and ~ (contains), in any case."""
        if not self.operator:
            return str(value).lower() not in ("", "false", "none", "0")
        if self.operator == "~":
            return self.value.lower() in str(value).lower()
        left, right = number(value), number(self.value)
        if left is None or right is None:
            return self._compares_words(str(value).lower(), self.value.lower())
        return {
            "<": left < right,
            "<=": left <= right,
            ">": left > right,
            ">=": left >= right,
            "!=": left != right,
        }.get(self.operator, left == right)

    def _compares_words(self, left: str, right: str) -> bool:
        return (left != right) if self.operator == "!=" else self.operator in "==" and left == right


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


def column(ledger: Ledger, entries: list[Entry], name: str) -> dict[str, Value]:
    """What is called `name`, whether metric, param, tag or attribute, by run id."""
    if name == "status":
        pruned = ledger.column("tags", "optuna.state")
        return {one.id: _state(one, pruned.get(one.id)) for one in entries}
    if name in ATTRIBUTES:
        return {one.id: str(getattr(one, name)) for one in entries}
    for kind, key in (
        ("metrics", name),
        ("params", name),
        ("tags", f"tag.{name}"),
        ("tags", NAMED.get(name, name)),
    ):
        found = ledger.column(kind, key)
        if found:
            return found
    if name in NAMED:
        return {}
    raise UserError(f"no run has anything called {name!r}{_near(ledger, name)}")


def _state(one: Entry, of_trial: Value | None) -> str:
    """As tables show it: a trial that was pruned has finished in MLflow's eyes."""
    return "pruned" if of_trial == "pruned" else one.status.lower()


def number(value: Value) -> float | None:
    """As a number, if it is one."""
    try:
        found = float(value)
    except ValueError:
        return None
    return None if math.isnan(found) else found


def _near(ledger: Ledger, name: str) -> str:
    tags = {key.removeprefix("tag.") for key in ledger.keys("tags")}
    known = {*ledger.keys("metrics"), *ledger.keys("params"), *tags, *NAMED, *ATTRIBUTES}
    near = get_close_matches(name, sorted(known), n=3)
    return f": did you mean {' or '.join(near)}?" if near else ""


def departures(one: Entry, base: dict[str, str]) -> dict[str, str]:
    """The settings in which a run departed from the defaults, each once."""
    return without_echoes(
        {
            name: value
            for name, value in one.params.items()
            if name not in NOT_COMPARED and not _equal(value, base.get(name))
        }
    )


def without_echoes(settings: dict[str, str]) -> dict[str, str]:
    """Less what follows from another setting of the same name (trainer.max_epochs)."""
    return {
        name: value
        for name, value in settings.items()
        if "." not in name or settings.get(name.split(".")[-1]) != value
    }


def _equal(value: str, other: str | None) -> bool:
    if other is None or value == other:
        return value == other
    left, right = number(value), number(other)
    return left is not None and left == right


# MERGED lab/condition: Conditions on runs, as they are typed: `learning_rate>0.001`, `status=failed`, `note~dropout`, `dirty`.

# MERGED lab/baseline: How a run departs from what its experiment does when nothing is typed.
