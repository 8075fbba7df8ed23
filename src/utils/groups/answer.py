"""The answer of a group, recorded in its run: mean and standard deviation, curves, figures, predictions.

metrics                  of each result of the members the mean, by step, and `<metric>_sd`; `oof_score`
members.csv              a line for each member
figures/members.png      the objective of each member, by fold
figures/curves.png       the curves of the members, their mean and its spread
predictions/             of all members together
"""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean, stdev

from src.utils.groups.figures import Curve, plot_curves, plot_members, shared_steps
from src.utils.predictions import pool_members
from src.utils.run import Run
from src.utils.runs.downloads import artifact_folder
from src.utils.runs.member import Member, returned_by
from src.utils.store.objective import MONITOR, OOF_SCORE, SPREAD, Objective, result_metrics

from mlflow.entities import Run as StoredRun

MAX_CURVES = 8  # metrics whose history is averaged; of the others the last value
MAX_PLOTS = 4


def record_answer(
    run: Run, members: Mapping[Member, StoredRun], score: Callable[..., float] | None
) -> None:
    """Record what the members of a group have in common.

    Args:
        run: of the group.
        members: the finished runs of all members.
        score: the program's own function `score(target, prediction)`, if it has one.

    Raises:
        UserError: the predictions of the members do not fit together.
    """
    results = {member: one.data.metrics for member, one in members.items()}
    common = set.intersection(*({*metrics} for metrics in results.values()))
    names = result_metrics(common)
    objective = find_objective(one.data.tags for one in members.values())
    monitor = objective.metric if objective else ""
    names.sort(key=lambda name: name != monitor)  # stable: the objective comes first
    curves = {name: _curves(run, members, name) for name in names[:MAX_CURVES]}
    for name in names:
        _log_metric(run, name, [metrics[name] for metrics in results.values()], curves.get(name))
    if objective:
        run.tag({MONITOR: objective.to_tag()})
    _write_table(run, members, names)
    if monitor in common:
        values = {member: metrics[monitor] for member, metrics in results.items()}
        run.figure("members", plot_members(monitor, values))
    drawn = {name: each for name, each in curves.items() if any(len(one) > 1 for one in each)}
    if drawn:
        run.figure("curves", plot_curves(dict(list(drawn.items())[:MAX_PLOTS])))
    _record_predictions(run, members, score)
    run.metrics.flush()


def find_objective(tags: Iterable[Mapping[str, str]]) -> Objective | None:
    """The objective that the tags of the first member with one name."""
    return next(filter(None, map(Objective.from_tags, tags)), None)


def _curves(run: Run, members: Mapping[Member, StoredRun], name: str) -> list[Curve]:
    """The history of a metric in each member."""
    histories = (run.client.get_metric_history(one.info.run_id, name) for one in members.values())
    return [{one.step: one.value for one in history} for history in histories]


def _log_metric(run: Run, name: str, last: list[float], curves: Sequence[Curve] | None) -> None:
    """Log the mean by step, where all members have the step, then the mean of the last values."""
    end = max((max(curve) for curve in curves or ()), default=0)
    for step in shared_steps(curves or ()):
        if step != end:
            run.log({name: fmean(curve[step] for curve in curves or ())}, step)
    run.log({name: fmean(last)}, end)
    if len(last) > 1:
        run.log({f"{name}{SPREAD}": stdev(last)}, end)


def _write_table(run: Run, members: Mapping[Member, StoredRun], names: Sequence[str]) -> None:
    with (run.folder / "members.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["fold", "seed", "run_id", "value", *names])
        for member, one in members.items():
            metrics = [one.data.metrics[name] for name in names]
            value = returned_by(one.data.tags)
            table.writerow([member.fold, member.seed, one.info.run_id, value, *metrics])


def _record_predictions(
    run: Run, members: Mapping[Member, StoredRun], score: Callable[..., float] | None
) -> None:
    """Put the predictions of the members together, and score those that are out of fold."""
    folders = {member: artifact_folder(run.client, one) for member, one in members.items()}
    pooled = pool_members(run.folder, folders)
    if pooled is not None and score is not None:
        run.log({OOF_SCORE: score(*pooled)})
