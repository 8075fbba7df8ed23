"""The charts of studies and groups in a report: history, parameters, importances, members."""

import math
import os
from collections.abc import Iterator, Sequence

from src.utils.errors import UserError
from src.utils.lab.filter import to_number
from src.utils.lab.report_charts import (
    Chart,
    Point,
    bar_chart,
    history_chart,
    is_finite,
    member_chart,
    slice_chart,
)
from src.utils.lab.report_runs import Subject
from src.utils.lab.runs import varying_params
from src.utils.paths import STUDIES
from src.utils.store.location import STUDY_STORE
from src.utils.store.objective import Objective
from src.utils.store.reader import find_artifact
from src.utils.store.record import RunRecord

MOST_PARAMS = 8  # of a study
MOST_GROUPS = 20  # in a chart
IMPORTANCES = "param_importances"  # the plot that a sweep draws from enough trials


def draw_study(subject: Subject, study: RunRecord) -> list[Chart]:
    """The history of a study, its objective by each parameter, and how much each one matters."""
    objective = Objective.of(study)  # None: there are several, or no trial is complete yet
    metric = objective.metric if objective else ""
    known = [
        run
        for run in subject.trials(study)
        if run.state in ("finished", "pruned") and is_finite(run.metrics.get(metric, math.nan))
    ]
    if objective is None or len(known) < 2:
        return []
    history = [_point(subject, run, metric, int(run.tags.get("optuna.trial", 0))) for run in known]
    name = f"{study.name}: {metric} by trial"
    charts = [Chart(f"{metric} by trial", history_chart(name, history, objective.maximize))]
    return [*charts, *_slices(subject, study, metric, known), *_importances(study)]


def _point(subject: Subject, run: RunRecord, metric: str, x: float | str) -> Point:
    colour, number = subject.colour(run), subject.number(run)
    return Point(x, run.metrics[metric], colour, number, run.state == "pruned")


def _slices(
    subject: Subject, study: RunRecord, metric: str, trials: Sequence[RunRecord]
) -> Iterator[Chart]:
    params = varying_params(trials)
    names = list(dict.fromkeys(name for one in params.values() for name in one))
    for name in names[:MOST_PARAMS]:
        tried = {run.id: params[run.id][name] for run in trials if name in params[run.id]}
        points = [
            _point(subject, run, metric, _coordinate(tried[run.id]))
            for run in trials
            if run.id in tried
        ]
        title = f"{metric} by {name}"
        yield Chart(title, slice_chart(f"{study.name}: {title}", points))


def _coordinate(text: str) -> float | str:
    number = to_number(text)
    return text if number is None else number


def _importances(study: RunRecord) -> Iterator[Chart]:
    """As Optuna estimates them, where the sweep has had enough trials and the study is here."""
    storage = os.environ.get(STUDY_STORE)
    is_drawn = find_artifact(study, f"plots/{IMPORTANCES}.png") is not None
    if not is_drawn or not (storage or STUDIES.exists()):
        return
    from src.utils.study.storage import open_storage  # late: it imports Optuna

    import optuna

    try:
        stored = optuna.load_study(
            study_name=study.name, storage=open_storage(storage, tables_exist=True)
        )
        found = optuna.importance.get_param_importances(stored)
    except (UserError, KeyError, RuntimeError, ValueError):  # it is elsewhere, or has changed since
        return
    values = {name.lstrip("+"): float(value) for name, value in found.items()}
    yield Chart("importances", bar_chart(f"{study.name}: importances", values))


def draw_groups(subject: Subject) -> list[Chart]:
    """The objective of the members of the best groups."""
    metric = subject.objective.metric if subject.objective else ""
    rows = []
    for run in subject.groups[:MOST_GROUPS]:
        points = [
            Point(0, member.metrics[metric], subject.colour(run), subject.number(run))
            for member in subject.members[run.id]
            if is_finite(member.metrics.get(metric, math.nan))
        ]
        rows += [(subject.label(run), points)] if points else []
    return [Chart(metric, member_chart(f"{metric} of members", rows))] if rows else []
