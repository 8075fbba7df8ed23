"""Merging an Optuna study into a storage, trial by trial.

Two trials are the same if they have the same run and repeat the same trials; before they have a run, if they
began at the same moment, or wait to repeat the same trial. A new trial gets the next number of the target:
numbers agree as long as only one side goes on. What is stored of a trial only grows: waiting, running,
failed, finished.

A trial that runs elsewhere is added as running, with a heartbeat of this moment. A later transfer ends it
with its value. If none comes, a sweep that resumes the study takes it for lost after `HEARTBEAT_LIMIT` and
queues it again, as it does with its own; a value that arrives later replaces this failure.
"""

import logging
import re
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from src.utils.process import is_gone
from src.utils.study.study import EXPERIMENT, GRID, PROCESS, RUN_ID, SEARCH_SPACE

from optuna.exceptions import DuplicatedStudyError
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import TrialModel
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import update

log = logging.getLogger(__name__)
RETRIES, FAILED = "retry_history", "failed_trial"  # system attributes: numbers of earlier trials
RANKS = {
    TrialState.WAITING: 0,
    TrialState.RUNNING: 1,
    TrialState.FAIL: 2,
    TrialState.PRUNED: 3,
    TrialState.COMPLETE: 3,
}
# Notes of optuna-dashboard: attributes of the study, in which a trial has its id, and their version
OF_TRIAL = re.compile(r"dashboard:(\d+):")
NOTE, NOTE_VERSION = re.compile(r"(.*)note_str:\d+"), "note_ver"
PAGE = re.compile(r"#/experiments/[^?#]+?/runs/")  # in notes: the link to a run in MLflow
Number = Callable[
    [str], str
]  # of an experiment in the MLflow store to which the links in notes lead
Attributes = Mapping[str, Any]


def merge_study(name: str, source: RDBStorage, target: RDBStorage, number: Number = str) -> bool:
    """Merge a study of one storage into that of the same name in another, which is made if it is missing.

    Studies of the same name that ask different questions are left as they are, with a warning.

    Returns:
        Whether the target has changed.
    """
    theirs, ours = find_study(source, name), find_study(target, name)
    assert theirs is not None
    if ours is not None and not _asks_the_same(theirs, ours):
        log.warning("%s is the name of another study there: its trials stay where they are", name)
        return False
    if ours is None:
        with suppress(DuplicatedStudyError):  # another process was faster
            target.create_new_study(theirs.directions, name)
    study_id = target.get_study_id_from_name(name)
    is_grid = bool(theirs.user_attrs.get(GRID))
    trials = _Trials(target, study_id, is_grid)
    for trial in source.get_all_trials(theirs._study_id):
        trials.merge(trial)
    attributes = _merge_attributes(target, study_id, theirs, trials.ids, number)
    return ours is None or trials.changed or attributes


def find_study(storage: RDBStorage, name: str) -> FrozenStudy | None:
    """The study of this name; None if there is none."""
    return next((one for one in storage.get_all_studies() if one.study_name == name), None)


def _asks_the_same(one: FrozenStudy, other: FrozenStudy) -> bool:
    stored = [study.user_attrs for study in (one, other)]
    unequal = (
        key
        for key in (EXPERIMENT, SEARCH_SPACE)
        if all(key in attributes for attributes in stored) and stored[0][key] != stored[1][key]
    )
    return one.directions == other.directions and not any(unequal)


class _Trials:
    """The trials of the target's study, by what makes them the same as one of the source."""

    def __init__(self, target: RDBStorage, study_id: int, is_grid: bool) -> None:
        self.target, self.study_id, self.is_grid = target, study_id, is_grid
        self.numbers: dict[int, int] = {}  # in the target, by number in the source
        self.ids: dict[int, int] = {}  # the same of Optuna's ids
        self.changed = False
        self.trials: list[FrozenTrial] = []
        self.known: dict[Any, FrozenTrial] = {}
        for trial in target.get_all_trials(study_id):
            self._remember(trial)

    def _remember(self, trial: FrozenTrial) -> None:
        self.trials.append(trial)
        for key in _keys(trial, trial.system_attrs):
            self.known.setdefault(key, trial)

    def merge(self, trial: FrozenTrial) -> None:
        """Add a trial of the source, or bring that of the target up to date."""
        attributes = self._translated(trial.system_attrs)
        same = self._find(trial, attributes)
        if same is None:
            if trial.state is TrialState.WAITING and RETRIES not in attributes:
                return  # queued by hand: it runs where it was queued
            same = self._add(trial, attributes)
            self.changed = True
        elif _is_later(trial, same):
            _update(self.target, same._trial_id, trial, attributes)
            self.changed = True
        self.numbers[trial.number], self.ids[trial._trial_id] = same.number, same._trial_id

    def _translated(self, attributes: Attributes) -> dict[str, Any]:
        """Earlier trials by their numbers in the target."""
        new = dict(attributes)
        if RETRIES in new:
            new[RETRIES] = [self.numbers.get(number, number) for number in new[RETRIES]]
        if FAILED in new:
            new[FAILED] = self.numbers.get(new[FAILED], new[FAILED])
        return new

    def _find(self, trial: FrozenTrial, attributes: Attributes) -> FrozenTrial | None:
        """Of two trials that have runs, the runs decide; of two that have begun, a retry is another one."""
        for key in _keys(trial, attributes):
            found = self.known.get(key)
            if found is not None and not _differ(trial, found):
                return found
        return None

    def _add(self, trial: FrozenTrial, attributes: dict[str, Any]) -> FrozenTrial:
        """A point of a grid that the target has begun, too, counts as one more attempt at it."""
        begun = [one.number for one in self.trials if one.params == trial.params]
        if self.is_grid and begun and RETRIES not in attributes:
            attributes |= {RETRIES: begun[:1], FAILED: begun[0]}
        new = FrozenTrial(
            number=-1,  # the storage gives it
            trial_id=-1,
            state=trial.state,
            value=None,
            values=trial.values,
            datetime_start=trial.datetime_start,
            datetime_complete=trial.datetime_complete,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs=trial.user_attrs,
            system_attrs=attributes,
            intermediate_values=trial.intermediate_values,
        )
        trial_id = self.target.create_new_trial(self.study_id, new)
        if trial.state is TrialState.RUNNING:
            self.target.record_heartbeat(trial_id)
        added = self.target.get_trial(trial_id)
        self._remember(added)
        return added


def _keys(trial: FrozenTrial, attributes: Attributes) -> list[Any]:
    """By what a trial is known: its run, the moment when it began, the trial that it repeats.

    A trial that was interrupted has the same run as the one that repeats it.
    """
    run, retries = trial.user_attrs.get(RUN_ID), tuple(attributes.get(RETRIES, ()))
    return [key for key in (run and (run, retries), trial.datetime_start, retries) if key]


def _differ(one: FrozenTrial, other: FrozenTrial) -> bool:
    begun = [trial.user_attrs if trial.datetime_start else {} for trial in (one, other)]
    runs = [attributes.get(RUN_ID) for attributes in begun]
    starts = [trial.datetime_start for trial in (one, other)]
    return any(None not in pair and pair[0] != pair[1] for pair in (runs, starts))


def _is_later(trial: FrozenTrial, present: FrozenTrial) -> bool:
    """Whether more is stored of a trial than the target has; what runs here is not ended from elsewhere."""
    if RANKS[trial.state] == RANKS[present.state] == RANKS[TrialState.RUNNING]:
        return len(trial.intermediate_values) > len(present.intermediate_values)
    if trial.state is TrialState.FAIL and present.state is TrialState.RUNNING:
        return not _runs_here(present)
    return RANKS[trial.state] > RANKS[present.state]


def _runs_here(trial: FrozenTrial) -> bool:
    process = trial.user_attrs.get(PROCESS, "")
    return process.startswith(f"{socket.gethostname()} ") and not is_gone(process)


def _update(target: RDBStorage, trial_id: int, trial: FrozenTrial, attributes: Attributes) -> None:
    """Optuna adds nothing to a finished trial, and sets the times itself: both are written directly."""
    start = trial.datetime_start
    _set_columns(target, trial_id, state=TrialState.RUNNING, datetime_start=start)
    for name, value in trial.params.items():
        distribution = trial.distributions[name]
        stored = distribution.to_internal_repr(value)
        if name not in target.get_trial(trial_id).params:
            target.set_trial_param(trial_id, name, stored, distribution)
    for step, value in trial.intermediate_values.items():
        target.set_trial_intermediate_value(trial_id, step, value)
    for key, value in trial.user_attrs.items():
        target.set_trial_user_attr(trial_id, key, value)
    for key, value in attributes.items():
        target.set_trial_system_attr(trial_id, key, value)
    if trial.state.is_finished():
        target.set_trial_state_values(trial_id, trial.state, trial.values)
        _set_columns(target, trial_id, datetime_complete=trial.datetime_complete)
    else:
        target.record_heartbeat(trial_id)


def _set_columns(target: RDBStorage, trial_id: int, **values: Any) -> None:
    with target.engine.begin() as connection:
        row = update(TrialModel).where(TrialModel.trial_id == trial_id)
        connection.execute(row.values(**values))


def _merge_attributes(
    target: RDBStorage, study_id: int, theirs: FrozenStudy, ids: Mapping[int, int], number: Number
) -> bool:
    """Add what the study lacks; of two numbers (trials asked for, version of a note) the greater is kept."""
    user = target.get_study_user_attrs(study_id)
    system = target.get_study_system_attrs(study_id)
    page = f"#/experiments/{number(str(theirs.user_attrs.get(EXPERIMENT, '')))}/runs/"
    new_user = _newer(theirs.user_attrs, user)
    new_system = _newer(_of_new_trials(theirs.system_attrs, ids), system)
    for key, value in new_user.items():
        target.set_study_user_attr(study_id, key, value)
    for key, value in new_system.items():
        text = PAGE.sub(page, value) if NOTE.match(key) else value
        target.set_study_system_attr(study_id, key, text)
    return bool(new_user or new_system)


def _of_new_trials(attributes: Attributes, ids: Mapping[int, int]) -> dict[str, Any]:
    """The notes of trials, by the ids that these have in the target."""
    new = {}
    for key, value in attributes.items():
        found = OF_TRIAL.match(key)
        if found and int(found[1]) in ids:
            new[f"dashboard:{ids[int(found[1])]}:{key[found.end() :]}"] = value
        elif not found:
            new[key] = value
    return new


def _newer(theirs: Attributes, ours: Attributes) -> dict[str, Any]:
    return {key: value for key, value in theirs.items() if _is_newer(key, theirs, ours)}


def _is_newer(key: str, theirs: Attributes, ours: Attributes) -> bool:
    if note := NOTE.match(key):  # the text of a note goes with its version
        version = f"{note[1]}{NOTE_VERSION}"
        return bool(theirs.get(version, 0) > ours.get(version, 0))
    new, old = theirs[key], ours.get(key)
    if type(new) is type(old) is int:
        return bool(new > old)
    return key not in ours
