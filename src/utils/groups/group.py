"""A group of runs: its members are launched, and its own run gets their common answer.

One `main` is written for one fold and one seed (`run.fold`, `cfg.seed`) and knows nothing of groups. Where
`folds` or `seeds` ask for more, `run_group` is called in its place.

Finished members are never repeated: `resume_run=GROUP` resumes those that were stopped, and starts those that
never began. As a trial of a study, a group reports after each member, and may be pruned then.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from src.utils.errors import UserError, one_line
from src.utils.groups.answer import find_objective, record_answer
from src.utils.groups.launch import MemberLauncher
from src.utils.groups.progress import MemberProgress
from src.utils.run import Run
from src.utils.runs.member import Member, members_of, returned_by
from src.utils.settings import ModelSettings
from src.utils.store.mlflow import close_connections, search_children
from src.utils.store.record import FOLD, FOLDS, MEMBERS, REASON, SEED, SEEDS

from hydra.core.hydra_config import HydraConfig
from hydra.types import TaskFunction
from mlflow.entities import Run as StoredRun

log = logging.getLogger(__name__)
Value = Any  # what main returns: a number, one for each objective, or anything else


def run_group(
    task: TaskFunction,
    score: Callable[..., float] | None,
    settings: ModelSettings,
    typed: ModelSettings,
    run: Run,
) -> float | list[float] | None:
    """Run the members of a group that are not finished yet, then record the answer of all.

    Args:
        task: the program, as Hydra calls it.
        score: the program's own function `score(target, prediction)`, if it has one.
        settings: of the group.
        typed: as they were composed from the command line.
        run: the group's own.

    Returns:
        The mean of what `main` returned, of each objective if there are several; None if it is no number.

    Raises:
        UserError: members have failed.
        Pruned: the group is a trial, and its pruner ends it.
    """
    members = members_of(settings)
    counts = {MEMBERS: len(members), FOLDS: settings.folds, SEEDS: settings.seeds}
    run.tag({name: str(count) for name, count in counts.items()})
    stored = _member_runs(run, members)
    finished = {one: member for one, member in stored.items() if member.info.status == "FINISHED"}
    values = {
        one: json.loads(returned_by(member.data.tags) or "null") for one, member in finished.items()
    }
    stopped = {one: member.info.run_id for one, member in stored.items() if one not in finished}
    if len(finished) == len(members):
        log.info("all %d runs of the group are finished already", len(members))
    else:
        launcher = MemberLauncher(task, run.id, settings, typed)
        failures = _launch(launcher, run, members, values, stopped)
        stored = _member_runs(run, members)
        if failures:
            _close_failed(run, stored, failures)
            raise UserError(_failure_message(run, len(members), failures))
    record_answer(run, stored, score)
    return mean_value([values[member] for member in members])


def _launch(
    launcher: MemberLauncher,
    run: Run,
    members: Sequence[Member],
    values: dict[Member, Value],
    stopped: Mapping[Member, str],
) -> dict[Member, str]:
    """Launch the members without a value, and add theirs to `values`; returns why members have failed."""
    waiting = [member for member in members if member not in values]
    batches = [[member] for member in waiting] if launcher.in_job else [waiting]
    failures: dict[Member, str] = {}
    progress = MemberProgress(members, len(values), launcher.at_a_time)
    if run.trial is not None and values:  # it may have been stopped before this report
        _report(run, [values[member] for member in members if member in values])
    with progress.bar:
        for batch in batches:
            _close_connections(run)
            for member, value, reason in launcher.launch(batch, stopped):
                progress.on_member_end(member, value, reason)
                if reason:
                    failures[member] = reason
                else:
                    values[member] = value
            if run.trial is not None:
                if failures:
                    return failures
                if batch == batches[0]:
                    _name_objective(run)
                _report(run, [values[member] for member in members if member in values])
    return failures


def _member_runs(run: Run, members: Sequence[Member]) -> dict[Member, StoredRun]:
    """The runs of the members that have one, the newest of each."""
    found = search_children(run.client, run.id)
    by_tags = {(one.data.tags.get(FOLD), one.data.tags.get(SEED)): one for one in found}
    keys = {one: (None if one.fold is None else str(one.fold), str(one.seed)) for one in members}
    return {member: by_tags[key] for member, key in keys.items() if key in by_tags}


def _close_connections(run: Run) -> None:
    """Close the connections to both stores: a member that is forked must not inherit them."""
    close_connections(run.client)
    if run.trial is not None:
        run.trial.close_connections()


def _name_objective(run: Run) -> None:
    """Name the objective of the first member that has one: it must have the direction of the study."""
    objective = find_objective(one.data.tags for one in search_children(run.client, run.id))
    if objective is not None:
        run.objective(objective.metric, objective.mode)


def _report(run: Run, values: Sequence[Value]) -> None:
    """Report to the pruner: the mean so far; or to Wilcoxon's, which compares pairs, the last value."""
    mean = mean_value(values)
    if isinstance(mean, float):
        compares_pairs = "Wilcoxon" in HydraConfig.get().sweeper.pruner._target_
        run.report(float(values[-1]) if compares_pairs else mean, len(values))


def _close_failed(
    run: Run, stored: Mapping[Member, StoredRun], failures: Mapping[Member, str]
) -> None:
    """Tag the runs of failed members with the reason, and end those whose process could not."""
    for member, reason in failures.items():
        if member in stored:
            run_id = stored[member].info.run_id
            run.client.set_tag(run_id, REASON, one_line(reason))
            if stored[member].info.status == "RUNNING":
                run.client.set_terminated(run_id, "FAILED")


def _failure_message(run: Run, count: int, failures: Mapping[Member, str]) -> str:
    reasons = "; ".join(f"{member.name}: {reason}" for member, reason in failures.items())
    resume = "" if run.trial else f"; resume_run={run.id[:8]} runs them again and keeps the others"
    return f"{len(failures)} of {count} members failed: {reasons}{resume}"


def mean_value(values: Sequence[Value]) -> float | list[float] | None:
    """The mean of what several members returned; None if one of them returned no number."""
    lists = [list(value) if isinstance(value, list | tuple) else [value] for value in values]
    try:
        means = [fmean(map(float, column)) for column in zip(*lists, strict=True)]
    except (TypeError, ValueError):
        return None
    return means if isinstance(values[0], list | tuple) else means[0]
