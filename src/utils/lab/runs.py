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
from src.utils.store.objective import Objective, find_objective, result_metrics
from src.utils.store.reader import RunReader, RunRecord, Value
from src.utils.store.reference import list_model_runs, list_runs, read_objective
from src.utils.terminal import format_metric, format_settings, format_time

from rich import box, get_console
from rich.markup import escape
from rich.table import Table

STYLES = {"failed": "red", "killed": "red", "running": "yellow", "pruned": "dim"}
RUN, WHEN, FIGURE, METRIC = 20, 11, 6, 16  # columns of a run's name, its time, a figure, a metric
SAID = 18  # columns, at least, of what a run differs in
WIDE = 100  # columns of a terminal that has room for more metrics
# Settings that change no result.
NOT_CHANGES = (
    *("note", "tags", "stale", "resume_study", "resume_run", "warm_start"),
    *("resume", "fork"),  # of earlier versions
)
FORM = re.compile(r"\s*([\w./\-]+)\s*(?:(<=|>=|!=|==|=|<|>|~)\s*(.*?)\s*)?", re.DOTALL)
NAMED = {  # for what has a longer name in MLflow
    "note": "mlflow.note.content",
    "dirty": "git.dirty",
    "commit": "mlflow.source.git.commit",
    "study": "optuna.study",
    "trial": "optuna.trial",
}
ATTRIBUTES = ("id", "name", "status", "experiment")
NOT_COMPARED = (*NOT_CHANGES, "seed", "force")


@dataclass(frozen=True)
class Filter:
    """A name alone asks whether it is there and not false."""

    name: str
    operator: str
    value: str

    @classmethod
    def parse(cls, text: str) -> "Filter":
        match = FORM.fullmatch(text)
        if match is None or (match[2] and not match[3]):
            raise UserError(
                f"{text!r} is no condition: write one like learning_rate>0.001, status=failed, "
                "note~dropout, or a tag alone"
            )
        return cls(match[1], match[2] or "", match[3] or "")

    def among(self, reader: RunReader, records: list[RunRecord]) -> list[RunRecord]:
        """The runs of which it is true."""
        values = column(reader, records, self.name)
        return [one for one in records if one.id in values and self.holds(values[one.id])]

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
class Query:
    """What to list."""

    experiment: str | None = None
    where: Sequence[str] = ()
    sort: str | None = None
    limit: int = 20


def chosen(reader: RunReader, query: Query) -> tuple[list[RunRecord], int]:
    """The runs to list, with all their values, and how many there would be without a limit."""
    records = list_runs(reader, query.experiment) if query.experiment else list_model_runs(reader)
    for text in query.where:
        records = Filter.parse(text).among(reader, records)
    if query.sort:
        records = _sorted(reader, records, query.sort)
    return reader.with_values(records[: query.limit or None]), len(records)


def _sorted(reader: RunReader, records: list[RunRecord], by: str) -> list[RunRecord]:
    """The best first, by what the metric is for (`-loss`: the other way round); then what has none."""
    name, backwards = by.removeprefix("-"), by.startswith("-")
    values = column(reader, records, name)
    aim = read_objective(reader, records)
    if aim is None or aim.metric != name:
        aim = Objective.from_name(name)
    aim = Objective(name, aim.maximize != backwards)
    return sorted(records, key=lambda one: (aim.sort_key(_number(values.get(one.id))), one.id))


def _number(value: float | str | None) -> float | str | None:
    try:
        return float(value) if value is not None else None
    except ValueError:
        return None


def print_runs(records: list[RunRecord], total: int, query: Query) -> None:
    """Print the table, two lines a run."""
    console = get_console()
    shown = _metrics(records, query, console.width)
    changes, marks = differences(records), data_marks(records)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("run", no_wrap=True, max_width=RUN)
    table.add_column("when", no_wrap=True)
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True, max_width=METRIC)
    table.add_column("differs in, and why", ratio=1, overflow="fold")
    for one in records:
        run = f"{one.name}\n{one.short}{'*' if one.is_dirty else ''}"
        figures = [format_metric(one.metrics.get(name)) for name in shown]
        differs = " ".join(
            part for part in (marks[one.id], format_settings(changes[one.id])) if part
        )
        said = "\n".join(part for part in (differs, why(one)) if part)
        cells = (run, f"{format_time(one.started)}\n{one.state}", *figures, said)
        table.add_row(*map(escape, cells), style=STYLES.get(one.state, ""))
    console.print(table)
    console.print(_caption(records, total), style="dim", highlight=False)


def _caption(records: list[RunRecord], total: int) -> str:
    of = f"{len(records)} of {total:,}" if total > len(records) else f"{total}"
    marks = ["* with uncommitted changes"] if any(one.is_dirty for one in records) else []
    return " · ".join([f"{of} run{'s' * (total != 1)}", *marks])


def _metrics(records: list[RunRecord], query: Query, width: int) -> list[str]:
    """Those that matter most: what was sorted by, what the runs are after, and the same on test data;
    as many as leave room for what differs."""
    known = {name for one in records for name in one.metrics}
    aim = find_objective(records)
    sort = [(query.sort or "").removeprefix("-")]
    names = [*sort, *(aim.metrics if aim else []), *result_metrics(known)]
    names = [name for name in dict.fromkeys(names) if name in known]
    room = width - RUN - WHEN - SAID - 3
    taken = list(accumulate(min(max(len(name), FIGURE), METRIC) + 1 for name in names))
    fitting = sum(columns <= room for columns in taken)
    return names[: min(fitting, 2 if width < WIDE else 4)]


def data_marks(records: Sequence[RunRecord]) -> dict[str, str]:
    """By run id, what is said of its data (`[sample]`), where the runs differ in it."""
    said = {one.id: data_said(one) for one in records}
    differ = len({said[one.id] for one in records if not one.is_study}) > 1
    return {run_id: text if differ else "" for run_id, text in said.items()}


def data_said(one: RunRecord) -> str:
    """`[sample]`, `[full, size=2]`: the facts of the data that a run read; empty without any."""
    metadata = {name[5:]: text for name, text in one.tags.items() if name.startswith("data.")}
    said = [text if name == "source" else f"{name}={text}" for name, text in metadata.items()]
    return f"[{', '.join(sorted(said))}]" if said else ""


def differences(records: Sequence[RunRecord]) -> dict[str, dict[str, str]]:
    """By run id, the params in which the runs differ among each other."""
    runs = [one for one in records if one.params]
    names = dict.fromkeys(key for one in runs for key in one.params)
    varied = [name for name in names if len({one.params.get(name) for one in runs}) > 1]
    top = [name for name in varied if "." not in name and name not in NOT_CHANGES]
    inner = [name for name in varied if "." in name and name.split(".")[-1] not in top]
    return {
        one.id: {name: one.params[name] for name in top + inner if name in one.params}
        for one in records
    }


def why(one: RunRecord) -> str:
    """The note, its tags, and for a failed trial the reason, on one line."""
    labels = " ".join(f"#{label}" for label in one.labels)
    reason = one.tags.get("reason", "")
    study = "a study" if one.is_study else ""
    said = " ".join(part for part in (one.note, labels, reason, study) if part)
    return said if len(said) <= 120 else f"{said[:119]}…"


def as_json(records: list[RunRecord]) -> str:
    """For programs."""
    return json.dumps([plain(one) for one in records], indent=2)


def plain(one: RunRecord) -> dict[str, Any]:
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
        "artifacts": one.artifact_uri,
    }


def column(reader: RunReader, records: list[RunRecord], name: str) -> dict[str, Value]:
    """What is called `name`, whether metric, param, tag or attribute, by run id."""
    if name == "status":
        pruned = reader.column("tags", "optuna.state")
        return {one.id: _state(one, pruned.get(one.id)) for one in records}
    if name in ATTRIBUTES:
        return {one.id: str(getattr(one, name)) for one in records}
    for kind, key in (
        ("metrics", name),
        ("params", name),
        ("tags", f"tag.{name}"),
        ("tags", NAMED.get(name, name)),
    ):
        found = reader.column(kind, key)
        if found:
            return found
    if name in NAMED:
        return {}
    raise UserError(f"no run has anything called {name!r}{_near(reader, name)}")


def _state(one: RunRecord, of_trial: Value | None) -> str:
    """As tables show it: a trial that was pruned has finished in MLflow's eyes."""
    return "pruned" if of_trial == "pruned" else one.status.lower()


def number(value: Value) -> float | None:
    """As a number, if it is one."""
    try:
        found = float(value)
    except ValueError:
        return None
    return None if math.isnan(found) else found


def _near(reader: RunReader, name: str) -> str:
    tags = {key.removeprefix("tag.") for key in reader.keys("tags")}
    known = {*reader.keys("metrics"), *reader.keys("params"), *tags, *NAMED, *ATTRIBUTES}
    near = get_close_matches(name, sorted(known), n=3)
    return f": did you mean {' or '.join(near)}?" if near else ""


def overrides_of(one: RunRecord, base: dict[str, str]) -> dict[str, str]:
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
