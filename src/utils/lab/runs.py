"""`lab runs`: a table of runs, filtered and sorted, with the params in which those of an experiment differ.

A group is one line, with mean ± standard deviation (number of members). Its members are listed on request.

`Query` holds the options of the command, `select_runs` applies them, `print_runs` prints the table and
`as_dicts` returns the same runs for programs. Other commands compare runs with the same functions:

`varying_params`    the params in which some runs differ from each other
`overrides_of`      the params in which one run differs from the defaults of its experiment
`data_labels`       `[sample]`, where runs have read different data
`branch_labels`     `main@1a2b3c4`, where runs are of several branches
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from src.utils.errors import UserError
from src.utils.lab.filter import Filter, read_column, to_number, to_value
from src.utils.store.objective import (
    SCORES,
    SPREAD,
    Objective,
    list_objectives,
    objective_by,
    result_metrics,
)
from src.utils.store.reader import RunReader
from src.utils.store.record import GROUP, MEMBERS, RunRecord
from src.utils.store.reference import (
    RECENT_RUNS,
    list_model_runs,
    list_runs,
    without_members,
)
from src.utils.terminal import format_metric, format_settings, format_spread, format_time

from rich import box, get_console
from rich.markup import escape
from rich.table import Table

# Widths of the table's columns, in characters.
RUN_WIDTH, TIME_WIDTH = 20, 11
NUMBER_WIDTH, NAME_WIDTH = 6, 16  # a metric: at least, and of its name at most
PARAMS_WIDTH = 18  # at least
NARROW_TERMINAL, WIDE_TERMINAL = 80, 100  # from 100 on the table shows four metrics instead of two
LIKE_BEST = "≈ "  # before the metric of a group that can't be told from the best
MOST_NOTE = 120  # characters of a note
STYLES = {"failed": "red", "killed": "red", "running": "yellow", "pruned": "dim"}

# Settings that do not count as a difference between runs that are otherwise equal.
NOT_COMPARED = ("seed", "force")


@dataclass(frozen=True)
class Query:
    """The options of `lab runs`."""

    experiment: str | None = None
    where: Sequence[str] = ()
    sort: str | None = None
    limit: int = 20  # 0: no limit
    members: bool = False  # list the members of groups, too


@dataclass(frozen=True)
class Selection:
    """The runs of a query, with their params, metrics and tags."""

    records: list[RunRecord]
    total: int  # without the limit
    like_best: set[
        str
    ]  # ids of groups that can't be told from the best one by the metric of --sort
    hides_members: bool


def select_runs(reader: RunReader, query: Query) -> Selection:
    """Find the runs of a query.

    Raises:
        UserError: a filter cannot be parsed, or no run has what a filter, `sort` or `experiment` names.
    """
    found = list_runs(reader, query.experiment) if query.experiment else list_model_runs(reader)
    filters = [Filter.parse(text) for text in query.where]
    lists_members = query.members or any(one.selects_members for one in filters)
    records = found if lists_members else without_members(reader, found)
    hides_members = len(records) < len(found)
    for one in filters:
        records = one.apply(reader, records)
    if query.sort:
        records = _sorted(reader, records, query.sort)
    shown = reader.with_values(records[: query.limit or None])
    like_best = _like_best(reader, records, shown, query.sort) if query.sort else set()
    return Selection(shown, len(records), like_best, hides_members)


def _sorted(reader: RunReader, records: list[RunRecord], by: str) -> list[RunRecord]:
    """Best first, in the direction of the metric (`-loss`: reversed); runs without a value last."""
    name, reverse = by.removeprefix("-"), by.startswith("-")
    values = read_column(reader, records, name)
    objective = objective_by(name, reader.with_values(records[:RECENT_RUNS]))
    order = Objective(name, objective.maximize != reverse)
    return sorted(records, key=lambda run: (order.sort_key(to_number(values.get(run.id))), run.id))


def _like_best(
    reader: RunReader, records: list[RunRecord], shown: list[RunRecord], by: str
) -> set[str]:
    """The groups among the runs shown that can't be told from the best group of all runs."""
    name = by.removeprefix("-")
    sizes, values = reader.column("tags", MEMBERS), reader.column("metrics", name)
    known = {run_id for run_id in {*sizes} & {*values} if to_number(values[run_id]) is not None}
    ranked = [run for run in records if run.id in known]
    best = ranked[-1 if by.startswith("-") else 0] if ranked else None
    others = [run for run in shown if run.id in known and best and run.id != best.id]
    if best is None or not others:
        return set()
    from src.utils.lab.verdict import like_the_first  # late: it imports scipy

    return like_the_first(reader, [*reader.with_values([best]), *others], name)


def print_runs(selection: Selection, query: Query) -> None:
    """Print the table, two lines a run.

    Raises:
        UserError: there is no run to print.
    """
    if not selection.records:
        raise UserError("no run matches: leave out a --where")
    console, records = get_console(), selection.records
    metrics = _metric_columns(selection, query, console.width)
    differences = _differences(records)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("run", no_wrap=True, max_width=RUN_WIDTH)
    table.add_column("started", no_wrap=True)
    for name, cells in metrics.items():
        table.add_column(name, justify="right", no_wrap=True, max_width=_width(name, cells))
    table.add_column("differs in, note", ratio=1, overflow="fold")
    for number, run in enumerate(records):
        name_and_id = f"{run.name}\n{run.short}{'*' if run.is_dirty else ''}"
        time_and_state = f"{format_time(run.started)}\n{run.state}"
        values = [cells[number] for cells in metrics.values()]
        last = "\n".join(filter(None, (differences[run.id], _note(run))))
        row = (name_and_id, time_and_state, *values, last)
        table.add_row(*map(escape, row), style=STYLES.get(run.state, ""))
    console.print(table)
    console.print(_caption(selection), style="dim", highlight=False)


def _differences(records: Sequence[RunRecord]) -> dict[str, str]:
    """By run id, the experiment where there are several, and what differs among the runs of each."""
    labels, branches = data_labels(records), branch_labels(records)
    experiments = {run.experiment for run in records}
    texts = {}
    for experiment in experiments:
        params = varying_params([run for run in records if run.experiment == experiment])
        name = experiment if len(experiments) > 1 else ""
        for run_id, differing in params.items():
            parts = (name, labels[run_id], branches[run_id], format_settings(differing))
            texts[run_id] = " ".join(filter(None, parts))
    return texts


def _metric_columns(selection: Selection, query: Query, width: int) -> dict[str, list[str]]:
    """The metric of --sort, the objectives, the same on test data, then others, as many as fit."""
    records = selection.records
    known = {name for run in records for name in run.metrics}
    objectives, sort = list_objectives(records), (query.sort or "").removeprefix("-")
    names = [sort, *(one.metric for one in objectives)]
    names += [name for one in objectives for name in one.metrics]
    names += [*SCORES, *result_metrics(known)]
    names = [name for name in dict.fromkeys(names) if name in known]
    columns = {
        name: [_metric_cell(run, name, selection, sort, width) for run in records]
        for name in names[: 2 if width < WIDE_TERMINAL else 4]
    }
    room = width - RUN_WIDTH - TIME_WIDTH - PARAMS_WIDTH - 3
    taken = list(accumulate(_width(name, cells) + 1 for name, cells in columns.items()))
    has_groups = any(run.is_group for run in records)
    fitting = max(sum(end <= room for end in taken), has_groups)
    return dict(list(columns.items())[:fitting])


def _metric_cell(record: RunRecord, name: str, selection: Selection, sort: str, width: int) -> str:
    is_like_best = name == sort and record.id in selection.like_best
    text = f"{LIKE_BEST if is_like_best else ''}{format_result(record, name)}"
    return text.replace(" ±", "\n±") if width < NARROW_TERMINAL else text


def _width(name: str, cells: list[str]) -> int:
    """Of a column: that of its longest line; a long name of a metric is cut off."""
    lines = [len(line) for cell in cells for line in cell.splitlines()]
    return max(min(len(name), NAME_WIDTH), NUMBER_WIDTH, *lines, 0)


def format_result(record: RunRecord, metric: str) -> str:
    """A metric of a run, of a group as `0.9812 ± 0.0021 (5)`; empty if it has none."""
    value, spread = record.metrics.get(metric), record.metrics.get(f"{metric}{SPREAD}")
    if value is None or spread is None or not record.is_group:
        return format_metric(value)
    return format_spread(value, spread, record.size)


def _note(record: RunRecord) -> str:
    """On one line: the note, the tags, the reason of a failure."""
    labels = " ".join(f"#{label}" for label in record.labels)
    study = "a study" if record.is_study else "a blend" if record.blended else ""
    text = " ".join(filter(None, (record.note, labels, record.reason, study)))
    return text if len(text) <= MOST_NOTE else f"{text[: MOST_NOTE - 1]}…"


def _caption(selection: Selection) -> str:
    records, total = selection.records, selection.total
    count = f"{len(records)} of {total:,}" if total > len(records) else f"{total}"
    parts = [f"{count} run{'s' * (total != 1)}"]
    if any(run.is_dirty for run in records):
        parts.append("* with uncommitted changes")
    if selection.like_best:
        parts.append(f"{LIKE_BEST.strip()} can't be told from the best group")
    if selection.hides_members and any(run.is_group for run in records):
        parts.append("--members lists the members of groups")
    return " · ".join(parts)


def as_dicts(reader: RunReader, records: list[RunRecord]) -> list[dict[str, Any]]:
    """Runs as --json prints them."""
    groups, members = reader.column("tags", GROUP), dict[str, list[str]]()
    for run in reversed(reader.runs()):
        if run.id in groups:
            members.setdefault(str(groups[run.id]), []).append(run.id)
    return [
        _as_dict(run) | ({"group": _as_group(run, members.get(run.id, []))} if run.is_group else {})
        for run in records
    ]


def _as_dict(record: RunRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "name": record.name,
        "experiment": record.experiment,
        "status": record.state,
        "started": record.started,
        "seconds": record.seconds,
        "note": record.note,
        "labels": record.labels,
        "branch": record.branch,
        "commit": record.commit,
        "dirty": record.is_dirty,
        "metrics": record.metrics,
        "params": {name: to_value(text) for name, text in record.params.items()},
        "tags": record.tags,
        "artifacts": _location(record.artifact_uri),
    }


def _location(uri: str) -> str | Path:
    path = uri.removeprefix("file://")
    return Path(path) if path.startswith("/") else uri


def _as_group(record: RunRecord, members: list[str]) -> dict[str, Any]:
    metrics = record.metrics
    spreads = {name: metrics[name + SPREAD] for name in metrics if name + SPREAD in metrics}
    return {
        "members": members,
        "n": record.size,
        "mean": {name: metrics[name] for name in spreads},
        "sd": spreads,
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


def branch_labels(records: Sequence[RunRecord]) -> dict[str, str]:
    """By run id, `main@1a2b3c4`: branch and commit; empty where all runs are of one branch."""
    branches = {run.branch for run in records if run.branch}  # a rerun has none
    return {
        run.id: f"{run.branch}@{run.commit[:7]}" if len(branches) > 1 and run.commit else ""
        for run in records
    }


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
    left, right = to_number(value), to_number(other)
    return left is not None and left == right
