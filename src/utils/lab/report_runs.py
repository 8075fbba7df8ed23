"""The runs of a report: which ones they are, and the table of what differs among them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from src.utils.errors import UserError
from src.utils.lab.runs import branch_labels, data_labels, format_result, varying_params
from src.utils.lab.show import failure_reason
from src.utils.lab.tried import Tries
from src.utils.store.objective import SCORES, Objective, result_metrics
from src.utils.store.reader import RunReader
from src.utils.store.record import PARENT, RunRecord
from src.utils.store.reference import (
    find_record,
    list_members,
    list_model_runs,
    list_runs,
    list_trials,
    without_members,
)
from src.utils.terminal import format_duration, format_settings, format_value

MOST_RUNS = 100  # in a report
MOST_METRICS = 4  # columns of the table
MOST_SETTINGS = 7  # columns of the table: more settings share one
COLOURS = 8  # runs with a colour of their own (in report_page.html), the best ones; others are grey


@dataclass(frozen=True)
class Subject:
    """The runs that a report is about."""

    runs: list[RunRecord]  # the best first; no studies, and of groups no members
    studies: list[RunRecord]
    members: dict[str, list[RunRecord]]  # of each group, by its id
    objective: Objective | None
    best: RunRecord | None
    left_out: int  # runs, the worst ones

    @property
    def experiments(self) -> list[str]:
        return list(dict.fromkeys(run.experiment for run in [*self.studies, *self.runs]))

    @property
    def groups(self) -> list[RunRecord]:
        return [run for run in self.runs if run.is_group]

    def number(self, run: RunRecord) -> int | None:
        """The place of a run in the table; None for a study."""
        ids = [one.id for one in self.runs]
        return ids.index(run.id) if run.id in ids else None

    def colour(self, run: RunRecord) -> int | None:
        """The number of a run's colour; None for grey."""
        number = self.number(run)
        return number if number is not None and number < COLOURS else None

    def label(self, run: RunRecord) -> str:
        """The name of a run; of a trial its number, and of trials of several studies their ids."""
        trial = run.tags.get("optuna.trial")
        if trial is None:
            return run.name
        return f"trial {trial}" if len(self.studies) < 2 else f"trial {trial} ({run.short})"

    def trials(self, study: RunRecord) -> list[RunRecord]:
        """The trials of a study, by number."""
        found = [run for run in self.runs if run.tags.get(PARENT) == study.id]
        return sorted(found, key=lambda run: int(run.tags.get("optuna.trial", -1)))


def select_subject(reader: RunReader, references: Sequence[str], limit: int) -> Subject:
    """Find the runs that references mean.

    Args:
        references: of runs, groups, studies (with their trials) and experiments; none means the experiment
            of the newest run of a model.
        limit: the newest runs of an experiment; 0 means all.

    Raises:
        UserError: a reference means nothing, or several runs; there is no run.
    """
    if not references:
        newest = list_model_runs(reader)
        if not newest:
            raise UserError("there are no runs yet: bash scripts/run.sh makes the first")
        references = [newest[0].experiment]
    meant = {run.id: run for one in references for run in _meant(reader, one, limit)}
    records = sorted(meant.values(), key=_time, reverse=True)
    runs = [run for run in records if not run.is_study]
    if not runs:
        raise UserError(f"{records[0].name} has no trials yet: there is nothing to report")
    ranked = Tries.of(runs)
    shown = ranked.records[:MOST_RUNS]
    return Subject(
        shown,
        [run for run in reversed(records) if run.is_study],
        {run.id: list_members(reader, run) for run in shown if run.is_group},
        ranked.objective,
        ranked.best,
        len(runs) - len(shown),
    )


def _time(run: RunRecord) -> float:
    return run.started.timestamp() if run.started else 0.0


def _meant(reader: RunReader, reference: str, limit: int) -> list[RunRecord]:
    if _is_experiment(reader, reference):
        return _newest(reader, reference, limit)
    record = find_record(reference, reader=reader)
    return [record, *list_trials(reader, record)] if record.is_study else [record]


def _is_experiment(reader: RunReader, reference: str) -> bool:
    known = {run.experiment for run in reader.runs()}
    return reference in known | {name.partition("/")[2] for name in known}


def _newest(reader: RunReader, experiment: str, limit: int) -> list[RunRecord]:
    """The newest runs of an experiment, and the studies of those that are trials."""
    records = without_members(reader, list_runs(reader, experiment))
    studies = (
        reader.column("tags", "optuna.study").keys() - reader.column("tags", "optuna.trial").keys()
    )
    runs = [run for run in records if run.id not in studies][: limit or None]
    parents = reader.column("tags", PARENT)
    needed = {str(parents[run.id]) for run in runs if run.id in parents}
    return reader.with_values([*runs, *(run for run in records if run.id in studies & needed)])


@dataclass(frozen=True)
class Row:
    """A run in the table."""

    run: RunRecord
    colour: int | None
    is_best: bool
    is_like_best: bool  # a group that can't be told from the best one
    results: list[str]
    settings: list[str]
    reason: str  # of a failure

    @property
    def time(self) -> str:
        seconds = self.run.seconds
        return "" if seconds is None else format_duration(timedelta(seconds=seconds))


@dataclass(frozen=True)
class RunTable:
    """The runs, with their results and the settings in which they differ."""

    metrics: list[str]
    settings: list[str]
    rows: list[Row]

    @property
    def has_states(self) -> bool:
        """Whether some run is not finished."""
        return any(row.run.state != "finished" for row in self.rows)

    @property
    def width(self) -> int:
        """The number of columns."""
        return 2 + len(self.metrics) + len(self.settings) + self.has_states


def make_table(reader: RunReader, subject: Subject) -> RunTable:
    """The table of a report."""
    metrics = _metrics(subject)
    differing = _differing(subject)
    names = list(dict.fromkeys(name for one in differing.values() for name in one))
    if len(names) > MOST_SETTINGS:
        labels = [name for name in ("experiment", "data", "branch") if name in names]
        differing = {run_id: _joined(one, labels) for run_id, one in differing.items()}
        names = [*labels, "what differs"]
    like_best = _like_best(reader, subject)
    rows = [
        Row(
            run,
            subject.colour(run),
            run == subject.best,
            run.id in like_best,
            [format_result(run, name) for name in metrics],
            [differing[run.id].get(name, "") for name in names],
            failure_reason(run),
        )
        for run in subject.runs
    ]
    return RunTable(metrics, names, rows)


def _metrics(subject: Subject) -> list[str]:
    """The objective first, the same on test data, the scores, then others."""
    known = {name for run in subject.runs for name in run.metrics}
    objective = subject.objective.metrics if subject.objective else []
    others = [name for name in result_metrics(known) if name.startswith(("val", "test"))]
    names = [*objective, *SCORES, *(others if objective else result_metrics(known))]
    return [name for name in dict.fromkeys(names) if name in known][:MOST_METRICS]


def _differing(subject: Subject) -> dict[str, dict[str, str]]:
    """By run id, the settings in which runs of one experiment differ, and of several, which one it is."""
    data, branches = data_labels(subject.runs), branch_labels(subject.runs)
    names = list(dict.fromkeys(run.experiment for run in subject.runs))
    found = {}
    for name in names:
        params = varying_params([run for run in subject.runs if run.experiment == name])
        for run_id, values in params.items():
            label = {"experiment": name if len(names) > 1 else ""}
            label |= {"data": data[run_id], "branch": branches[run_id]}
            shown = {setting: format_value(value) for setting, value in values.items()}
            found[run_id] = {key: text for key, text in label.items() if text} | shown
    return found


def _joined(values: dict[str, str], labels: Sequence[str]) -> dict[str, str]:
    settings = {name: value for name, value in values.items() if name not in labels}
    kept = {name: values[name] for name in labels if name in values}
    return kept | {"what differs": format_settings(settings)}


def _like_best(reader: RunReader, subject: Subject) -> set[str]:
    best, objective = subject.best, subject.objective
    others = [run for run in subject.groups if best and run.id != best.id]
    if best is None or objective is None or not best.is_group or not others:
        return set()
    from src.utils.lab.verdict import like_the_first  # late: it imports scipy

    return like_the_first(reader, [best, *others], objective.metric)


def count_states(runs: Sequence[RunRecord]) -> Iterator[str]:
    """`12 finished`, `4 pruned`"""
    for state, count in Tries(list(runs), None).states.items():
        yield f"{count} {state}"
