"""What is stored with an Optuna study, how many trials remain, and how lost trials are queued again.

All that a sweep needs to know is in the study itself: several processes may share one study, and a sweep that
was killed resumes from it.
"""

import logging
import warnings
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from src.utils.errors import UserError
from src.utils.paths import Experiment
from src.utils.process import HEARTBEAT_LIMIT, is_gone
from src.utils.store.record import GOES_ON_WITH, NO_EFFECT, REASON
from src.utils.study.search_space import SearchSpace

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

log = logging.getLogger(__name__)
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)

# User attributes of a study. «question» and «arguments» are as stored by earlier versions.
EXPERIMENT, GRID, N_TRIALS = "experiment", "grid", "n_trials"
SEARCH_SPACE = "question"  # `SearchSpace.describe`
OVERRIDES = "arguments"  # the overrides of the experiment
SETTINGS = "settings"  # the overrides of Hydra
INPUTS = "inputs"  # the versions of data that all trials read: {experiment: digest}
FOLDER = "folder"  # of the sweep, relative to the repository
CODE = "code"  # digest of the experiment's code when the study began
# User attributes of a trial, and a system attribute: how often its parameters have failed before
PROCESS = "owner"  # the process that runs it, as stored by earlier versions
RUN_ID = "run_id"  # its run in MLflow; also of a study
FAILURES = "failures"
RUNG = "completed_rung_"  # Optuna's system attributes: how a pruner has judged a trial until now
# Values of its user attribute `REASON` that do not count as a failure
INTERRUPTED = "interrupted"
REDUNDANT = "another process had finished the study"

optuna.logging.set_verbosity(optuna.logging.ERROR)  # the live table shows what Optuna would log
warnings.filterwarnings("ignore", category=ExperimentalWarning)  # of heartbeats and retries


def find_study(storage: BaseStorage, reference: str, experiment: Experiment) -> FrozenStudy:
    """Find a study of an experiment.

    Args:
        reference: the name of the study, or `latest`.

    Raises:
        UserError: there is no such study.
    """
    studies = [
        study
        for study in storage.get_all_studies()
        if study.user_attrs.get(EXPERIMENT) == str(experiment)
    ]
    for study in reversed(studies):
        if reference in ("latest", study.study_name):
            return study
    known = ", ".join(study.study_name for study in studies[-5:]) or "none yet"
    raise UserError(
        f"there is no study {reference!r} of {experiment} to resume; there are: {known}"
    )


def initialize_study(
    study: optuna.Study,
    experiment: Experiment,
    overrides: list[str],
    settings: list[str],
    space: SearchSpace,
    n_trials: int | None,
) -> None:
    """Store the search space and the settings of a new study, or compare them with those of an old one.

    Args:
        overrides: the overrides of the experiment.
        settings: the overrides of Hydra.
        n_trials: None keeps the number that is stored. A grid has as many trials as points.

    Raises:
        UserError: the study belongs to another experiment or has another search space, or a range of a grid
            has no steps.
    """
    owner = study.user_attrs.get(EXPERIMENT, str(experiment))
    if owner != str(experiment):
        raise UserError(f"{study.study_name} is a study of {owner}: take another study_name")
    new = space.describe()
    stored = study.user_attrs.get(SEARCH_SPACE) if EXPERIMENT in study.user_attrs else None
    if stored is not None:
        _check_unchanged(study.study_name, stored, new)
    n_trials = len(space.grid_points) or n_trials
    if n_trials is not None:
        study.set_user_attr(N_TRIALS, n_trials)
    study.set_user_attr(SETTINGS, settings)
    if stored is None:
        study.set_user_attr(SEARCH_SPACE, new)
        study.set_user_attr(OVERRIDES, overrides)
        study.set_user_attr(GRID, space.is_grid)
        study.set_user_attr(EXPERIMENT, str(experiment))  # last: now the study can be resumed


def _check_unchanged(study_name: str, stored: dict[str, str], new: dict[str, str]) -> None:
    for key in sorted({*stored, *new} - NO_EFFECT):
        if stored.get(key) != new.get(key):
            old_value, new_value = (space.get(key, "(not set)") for space in (stored, new))
            raise UserError(
                f"{study_name} has {key}={old_value}, not {new_value}: that would be a new study"
            )


def check_code(study: optuna.Study, experiment: Experiment, code: str, is_resumed: bool) -> None:
    """Store the digest of the experiment's code with a new study, or compare it with that of an old one.

    Values of different code can't be compared. A study that is resumed by its name goes on with a warning.

    Raises:
        UserError: a study that is joined (`hydra.sweeper.study_name`) began with other code.
    """
    stored = study.user_attrs.get(CODE)
    if study.user_attrs.get(EXPERIMENT, str(experiment)) != str(experiment):
        return  # `initialize_study` refuses it
    if stored is None and not study.get_trials(deepcopy=False):
        study.set_user_attr(CODE, code)
    if stored in (None, code):
        return
    name, changed = (
        study.study_name,
        f"src/{experiment} is not what it was when {study.study_name} began",
    )
    if not is_resumed:
        raise UserError(
            f"{changed} (edited since, or on another branch): take another hydra.sweeper.study_name; "
            f"resume_study={name} joins it all the same"
        )
    log.warning("%s: values of earlier trials may not compare with those of new ones", changed)


def pin_inputs(study: optuna.Study, digests: Mapping[str, str]) -> None:
    """Store which versions of their inputs all trials read. Those that are stored stay."""
    stored = pinned_inputs(study)
    if digests.keys() - stored.keys():
        study.set_user_attr(INPUTS, {**digests, **stored})


def pinned_inputs(study: optuna.Study | FrozenStudy) -> dict[str, str]:
    """Return the digests of the inputs of all trials, by experiment."""
    return dict(study.user_attrs.get(INPUTS, {}))


def n_trials_of(study: optuna.Study) -> int:
    """Return how many finished trials the study is to have."""
    return int(study.user_attrs[N_TRIALS])


def count_trials(study: optuna.Study, *states: TrialState) -> int:
    """Count the trials that are in one of these states."""
    return len(study.get_trials(deepcopy=False, states=states))


def best_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the best trial, or those of the Pareto front; none before the first is complete."""
    if not count_trials(study, TrialState.COMPLETE):
        return []
    return study.best_trials if len(study.directions) > 1 else [study.best_trial]


def host_of(trial: FrozenTrial) -> str:
    """Return the machine that runs a trial, or has run it; empty for one that has just started."""
    return str(trial.user_attrs.get(PROCESS, "")).partition(" ")[0]


def remaining_trials(study: optuna.Study) -> int:
    """Return how many trials are still to be started."""
    if study.user_attrs[GRID]:
        started = sum(not earlier_attempts(one) for one in study.get_trials(deepcopy=False))
        return max(0, n_trials_of(study) - started) + count_trials(study, TrialState.WAITING)
    return n_trials_of(study) - count_trials(study, *FINISHED, TrialState.RUNNING)


def is_complete(study: optuna.Study) -> bool:
    """Whether the study has all its trials. Of a grid, points that have failed for good count, too."""
    if study.user_attrs[GRID]:
        return remaining_trials(study) <= 0 and count_trials(study, TrialState.RUNNING) == 0
    return count_trials(study, *FINISHED) >= n_trials_of(study)


def grid_index(trial: optuna.Trial) -> int:
    """Return which point of the grid a trial has.

    The first trials have one point each. A trial that is tried again has the point of its first attempt.
    Processes that share a study need no other agreement.
    """
    trials = trial.study.get_trials(deepcopy=False)
    first = next(iter(earlier_attempts(trials[trial.number])), trial.number)
    return sum(not earlier_attempts(one) for one in trials[:first])


def is_redundant(trial: optuna.Trial) -> bool:
    """Whether the study is complete without this trial.

    This happens when several processes start the last trials at the same moment.
    """
    if trial.study.user_attrs[GRID]:
        return grid_index(trial) >= n_trials_of(trial.study)
    trials = trial.study.get_trials(deepcopy=False)
    before = [one for one in trials if one.number < trial.number]
    return sum(one.state is not TrialState.FAIL for one in before) >= n_trials_of(trial.study)


def requeue_lost_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Fail the trials of sweeps that were killed, queue them again, and return them.

    A trial of this machine is lost as soon as its process is gone, one of another machine when its heartbeat
    is stale.
    """
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    optuna.storages.fail_stale_trials(study)
    for trial in filter(_is_lost, running):
        with suppress(UpdateFinishedTrialError):  # another process was faster
            study._storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)
            requeue_trial(study, study._storage.get_trial(trial._trial_id))
    trials = study.get_trials(deepcopy=False)
    return [trials[one.number] for one in running if trials[one.number].state is TrialState.FAIL]


def _is_lost(trial: FrozenTrial) -> bool:
    process = trial.user_attrs.get(PROCESS)
    if process is None:  # just started; or its sweep was killed before the first heartbeat
        start = trial.datetime_start or datetime.now()
        return datetime.now() - start > timedelta(seconds=HEARTBEAT_LIMIT)
    return is_gone(process)


def requeue_trial(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue again a trial that was interrupted or lost; Optuna's callback for stale heartbeats.

    It has the run and the reports of the old one, and goes on with that run. It is not counted as a failure.
    """
    run_id = trial.user_attrs.get(RUN_ID)
    run = {RUN_ID: run_id, GOES_ON_WITH: trial.number} if run_id is not None else {}
    _requeue(
        study, trial, count_failures(trial), trial.system_attrs, run, trial.intermediate_values
    )


def retry_trial(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue again a trial that has failed; it begins anew."""
    attributes = {k: v for k, v in trial.system_attrs.items() if not k.startswith(RUNG)}
    _requeue(study, trial, count_failures(trial) + 1, attributes, {}, {})


def _requeue(
    study: optuna.Study,
    trial: FrozenTrial,
    failures: int,
    system_attrs: dict[str, Any],
    user_attrs: dict[str, Any],
    reports: dict[int, float],
) -> None:
    """Add a new trial with the parameters of an old one."""
    history = [*earlier_attempts(trial), trial.number]
    attributes = {"failed_trial": trial.number, **system_attrs}
    study.add_trial(
        optuna.create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            system_attrs={**attributes, "retry_history": history, FAILURES: failures},
            user_attrs=user_attrs,
            intermediate_values=reports,
        )
    )


def was_interrupted(trial: FrozenTrial) -> bool:
    """Whether a trial was interrupted, or lost with its process, which could give no reason."""
    reason = trial.user_attrs.get(REASON, INTERRUPTED)
    return trial.state is TrialState.FAIL and reason == INTERRUPTED


def has_lost_its_run(study: optuna.Study, trial: FrozenTrial) -> bool:
    """Whether another trial has taken up the run of this one, which was interrupted."""
    later = study.get_trials(deepcopy=False)[trial.number + 1 :]
    run_id = trial.user_attrs.get(RUN_ID)
    return run_id is not None and any(
        one.user_attrs.get(RUN_ID) == run_id and one.state is not TrialState.WAITING
        for one in later
    )


def count_failures(trial: FrozenTrial) -> int:
    """Return how often the parameters of a trial have failed before it; interruptions do not count."""
    return int(trial.system_attrs.get(FAILURES, 0))


def earlier_attempts(trial: FrozenTrial) -> list[int]:
    """The numbers of the earlier attempts of a trial, the first one first."""
    return list(trial.system_attrs.get("retry_history", []))
