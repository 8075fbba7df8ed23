"""`lab runs`: a table of runs, filtered and sorted, with the params in which they differ.

`Query` holds the options of the command, `select_runs` applies them, `print_runs` prints the table and
`as_json` the same runs for programs. Other commands compare runs with the same functions:

`varying_params`    the params in which some runs differ from each other
`overrides_of`      the params in which one run differs from the defaults of its experiment
`data_labels`       `[sample]`, where runs have read different data
"""

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
from src.utils.store.reader import RunReader
from src.utils.store.record import RunRecord, Value
from src.utils.store.reference import list_model_runs, list_runs, read_objective
from src.utils.terminal import format_metric, format_settings, format_time

from rich import box, get_console
from rich.markup import escape
from rich.table import Table

# Widths of the table's columns, in characters.
RUN_WIDTH, TIME_WIDTH = 20, 11
NUMBER_WIDTH, METRIC_WIDTH = 6, 16  # a metric's column: at least, at most
PARAMS_WIDTH = 18  # at least
WIDE_TERMINAL = 100  # from here on the table shows four metrics instead of two
MOST_NOTE = 120  # characters of a note
STYLES = {"failed": "red", "killed": "red", "running": "yellow", "pruned": "dim"}

# Settings that do not count as a difference between runs that are otherwise equal.
NOT_COMPARED = ("seed", "force")

FILTER = re.compile(r"\s*([\w./\-]+)\s*(?:(<=|>=|!=|==|=|<|>|~)\s*(.*?)\s*)?", re.DOTALL)
ATTRIBUTES = ("id", "name", "status", "experiment")  # of a run, as --where and --sort name them
TAGS = {  # short names of tags
    "note": "mlflow.note.content",
    "dirty": "git.dirty",
    "commit": "mlflow.source.git.commit",
    "study": "optuna.study",
    "trial": "optuna.trial",
}


@dataclass(frozen=True)
class Query:
    """The options of `lab runs`."""

    experiment: str | None = None
    where: Sequence[str] = ()
    sort: str | None = None
    limit: int = 20  # 0: no limit


@dataclass(frozen=True)
class Filter:
    """A condition of --where: `learning_rate>0.001`, `status=failed`, `note~dropout`.

    A name alone, such as `dirty`, selects the runs that have it with a value other than false.
    """

    name: str
    operator: str
    value: str

    @classmethod
    def parse(cls, text: str) -> "Filter":
        """Parse a condition as it is typed.

        Raises:
            UserError: the text is not a filter.
        """
        match = FILTER.fullmatch(text)
        if match is None or (match[2] and not match[3]):
            raise UserError(
                f"{text!r} is not a filter: write one like learning_rate>0.001, status=failed, "
                "note~dropout, or a tag alone"
            )
        return cls(match[1], match[2] or "", match[3] or "")

    def apply(self, reader: RunReader, records: list[RunRecord]) -> list[RunRecord]:
        """Return the runs that match.

        Raises:
            UserError: no run has a metric, param, tag or attribute of this name.
        """
        values = _column(reader, records, self.name)
        return [run for run in records if run.id in values and self.matches(values[run.id])]

    def matches(self, value: Value) -> bool:
        """Compare numbers as numbers, and text by =, != and ~ (contains), ignoring case."""
        if not self.operator:
            return str(value).lower() not in ("", "false", "none", "0")
        if self.operator == "~":
            return self.value.lower() in str(value).lower()
        left, right = _number(value), _number(self.value)
        if left is None or right is None:
            return self._matches_text(str(value).lower(), self.value.lower())
        return {
            "<": left < right,
            "<=": left <= right,
            ">": left > right,
            ">=": left >= right,
            "!=": left != right,
        }.get(self.operator, left == right)

    def _matches_text(self, left: str, right: str) -> bool:
        if self.operator == "!=":
            return left != right
        return self.operator in ("=", "==") and left == right


def select_runs(reader: RunReader, query: Query) -> tuple[list[RunRecord], int]:
    """Return the runs of a query with all their values, and the number of runs without its limit.

    Raises:
        UserError: a filter cannot be parsed, or no run has what a filter, `sort` or `experiment` names.
    """
    records = list_runs(reader, query.experiment) if query.experiment else list_model_runs(reader)
    for text in query.where:
        records = Filter.parse(text).apply(reader, records)
    if query.sort:
        records = _sorted(reader, records, query.sort)
    return reader.with_values(records[: query.limit or None]), len(records)


def _sorted(reader: RunReader, records: list[RunRecord], by: str) -> list[RunRecord]:
    """Best first, in the direction of the metric (`-loss`: reversed); runs without a value last."""
    name, reverse = by.removeprefix("-"), by.startswith("-")
    values = _column(reader, records, name)
    objective = read_objective(reader, records)
    if objective is None or objective.metric != name:
        objective = Objective.from_name(name)
    order = Objective(name, objective.maximize != reverse)
    return sorted(records, key=lambda run: (order.sort_key(_number(values.get(run.id))), run.id))


def _column(reader: RunReader, records: list[RunRecord], name: str) -> dict[str, Value]:
    """By run id, the metric, param, tag or attribute of this name."""
    if name == "status":
        trial_states = reader.column("tags", "optuna.state")
        return {run.id: _status(run, trial_states.get(run.id)) for run in records}
    if name in ATTRIBUTES:
        return {run.id: str(getattr(run, name)) for run in records}
    for kind, key in (
        ("metrics", name),
        ("params", name),
        ("tags", f"tag.{name}"),
        ("tags", TAGS.get(name, name)),
    ):
        values = reader.column(kind, key)
        if values:
            return values
    if name in TAGS:
        return {}
    raise UserError(f"no run has anything called {name!r}{_suggestion(reader, name)}")


def _status(record: RunRecord, trial_state: Value | None) -> str:
    """As tables show it: to MLflow, a pruned trial has finished."""
    return "pruned" if trial_state == "pruned" else record.status.lower()


def _suggestion(reader: RunReader, name: str) -> str:
    tags = {key.removeprefix("tag.") for key in reader.keys("tags")}
    known = {*reader.keys("metrics"), *reader.keys("params"), *tags, *TAGS, *ATTRIBUTES}
    near = get_close_matches(name, sorted(known), n=3)
    return f": did you mean {' or '.join(near)}?" if near else ""


def _number(value: Value | None) -> float | None:
    try:
        number = math.nan if value is None else float(value)
    except ValueError:
        return None
    return None if math.isnan(number) else number


def print_runs(records: list[RunRecord], total: int, query: Query) -> None:
    """Print the table, two lines a run."""
    console = get_console()
    metrics = _shown_metrics(records, query, console.width)
    params, labels = varying_params(records), data_labels(records)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("run", no_wrap=True, max_width=RUN_WIDTH)
    table.add_column("started", no_wrap=True)
    for name in metrics:
        table.add_column(name, justify="right", no_wrap=True, max_width=METRIC_WIDTH)
    table.add_column("differs in, note", ratio=1, overflow="fold")
    for run in records:
        name_and_id = f"{run.name}\n{run.short}{'*' if run.is_dirty else ''}"
        time_and_state = f"{format_time(run.started)}\n{run.state}"
        values = [format_metric(run.metrics.get(name)) for name in metrics]
        differs = " ".join(filter(None, (labels[run.id], format_settings(params[run.id]))))
        last = "\n".join(filter(None, (differs, _note(run))))
        cells = (name_and_id, time_and_state, *values, last)
        table.add_row(*map(escape, cells), style=STYLES.get(run.state, ""))
    console.print(table)
    console.print(_caption(records, total), style="dim", highlight=False)


def _shown_metrics(records: list[RunRecord], query: Query, width: int) -> list[str]:
    """The metric of --sort, the objective, the same on test data, then others, as many as fit."""
    known = {name for run in records for name in run.metrics}
    objective = find_objective(records)
    sort = [(query.sort or "").removeprefix("-")]
    names = [*sort, *(objective.metrics if objective else []), *result_metrics(known)]
    names = [name for name in dict.fromkeys(names) if name in known]
    room = width - RUN_WIDTH - TIME_WIDTH - PARAMS_WIDTH - 3
    taken = list(accumulate(min(max(len(name), NUMBER_WIDTH), METRIC_WIDTH) + 1 for name in names))
    fitting = sum(columns <= room for columns in taken)
    return names[: min(fitting, 2 if width < WIDE_TERMINAL else 4)]


def _note(record: RunRecord) -> str:
    """On one line: the note, the tags, the reason of a failure."""
    labels = " ".join(f"#{label}" for label in record.labels)
    study = "a study" if record.is_study else ""
    text = " ".join(filter(None, (record.note, labels, record.tags.get("reason", ""), study)))
    return text if len(text) <= MOST_NOTE else f"{text[: MOST_NOTE - 1]}…"


def _caption(records: list[RunRecord], total: int) -> str:
    count = f"{len(records)} of {total:,}" if total > len(records) else f"{total}"
    legend = ["* with uncommitted changes"] if any(run.is_dirty for run in records) else []
    return " · ".join([f"{count} run{'s' * (total != 1)}", *legend])


def as_json(records: list[RunRecord]) -> str:
    """The output of `lab runs --json`."""
    return json.dumps([as_dict(run) for run in records], indent=2)


def as_dict(record: RunRecord) -> dict[str, Any]:
    """A run as --json prints it."""
    return {
        "id": record.id,
        "name": record.name,
        "experiment": record.experiment,
        "status": record.state,
        "started": record.started.isoformat() if record.started else None,
        "seconds": record.seconds,
        "note": record.note,
        "labels": record.labels,
        "dirty": record.is_dirty,
        "metrics": record.metrics,
        "params": record.params,
        "tags": record.tags,
        "artifacts": record.artifact_uri,
    }


def data_labels(records: Sequence[RunRecord]) -> dict[str, str]:
    """By run id, the label of the data, `[sample]`; empty where all runs have read the same data."""
    labels = {run.id: _data_label(run) for run in records}
    differ = len({labels[run.id] for run in records if not run.is_study}) > 1
    return {run_id: label if differ else "" for run_id, label in labels.items()}


def _data_label(record: RunRecord) -> str:
    """`[sample]`, `[full, size=2]`; empty where the data have no metadata."""
    metadata = data_metadata(record).items()
    parts = [text if name == "source" else f"{name}={text}" for name, text in metadata]
    return f"[{', '.join(sorted(parts))}]" if parts else ""


def data_metadata(record: RunRecord) -> dict[str, str]:
    """The metadata of the data that a run has read, from its tags `data.…`."""
    return {
        name.removeprefix("data."): value
        for name, value in record.tags.items()
        if name.startswith("data.")
    }


def varying_params(records: Sequence[RunRecord]) -> dict[str, dict[str, str]]:
    """By run id, the params whose values are not the same in all these runs."""
    settings = {run.id: run.settings for run in records}
    known = [values for values in settings.values() if values]
    names = dict.fromkeys(name for values in known for name in values)
    varied = [name for name in names if len({values.get(name) for values in known}) > 1]
    top = [name for name in varied if "." not in name]
    nested = [name for name in varied if "." in name and name.split(".")[-1] not in top]
    return {
        run_id: {name: values[name] for name in top + nested if name in values}
        for run_id, values in settings.items()
    }


def overrides_of(record: RunRecord, defaults: dict[str, str]) -> dict[str, str]:
    """The params that differ from the defaults, each once."""
    return without_derived(
        {
            name: value
            for name, value in record.settings.items()
            if name not in NOT_COMPARED and not _is_equal(value, defaults.get(name))
        }
    )


def without_derived(params: dict[str, str]) -> dict[str, str]:
    """Drop nested params that repeat a top one, such as trainer.max_epochs beside max_epochs."""
    return {
        name: value
        for name, value in params.items()
        if "." not in name or params.get(name.split(".")[-1]) != value
    }


def _is_equal(value: str, other: str | None) -> bool:
    if other is None or value == other:
        return value == other
    left, right = _number(value), _number(other)
    return left is not None and left == right
