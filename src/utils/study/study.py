"""An Optuna study: what it asks, how far it has come, and what a killed sweep left behind."""

import warnings
from contextlib import suppress
from datetime import datetime, timedelta

from src.utils.errors import UserError
from src.utils.paths import STUDIES, Experiment
from src.utils.process import is_gone
from src.utils.study.search_space import SearchSpace

import optuna
from filelock import FileLock
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

GRACE_PERIOD = 60  # seconds without a sign of life
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
# What is written on a study
EXPERIMENT, QUESTION, ARGUMENTS, N_TRIALS = "experiment", "question", "arguments", "n_trials"
SETTINGS, GRID = "settings", "grid"
# … and on a trial: the process that runs it, and why it failed
PROCESS, REASON, FAILURES = "owner", "reason", "failures"
# Reasons that are no fault of a trial
INTERRUPTED = "interrupted"
REDUNDANT = "another process had finished the study"

optuna.logging.set_verbosity(optuna.logging.ERROR)  # the sweep tells the story
warnings.filterwarnings("ignore", category=ExperimentalWarning)  # heartbeats, and retries


def find_study(storage: BaseStorage, reference: str, experiment: Experiment) -> FrozenStudy:
    """The study that `reference` means: the `latest` of an experiment, or one by its name."""
    studies = [
        one
        for one in storage.get_all_studies()
        if one.user_attrs.get(EXPERIMENT) == str(experiment)
    ]
    for study in reversed(studies):
        if reference in ("latest", study.study_name):
            return study
    known = ", ".join(study.study_name for study in studies[-5:]) or "none yet"
    raise UserError(
        f"there is no study {reference!r} of {experiment} to resume; there are: {known}"
    )


def study_lock(study_name: str) -> FileLock:
    """Held while a study is written down, so that processes that share it do not get in each other's way."""
    STUDIES.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(STUDIES.with_name(f".{study_name.replace('/', '-')}.lock"))


def begin(
    study: optuna.Study,
    experiment: Experiment,
    typed: list[str],
    settings: list[str],
    space: SearchSpace,
    n_trials: int | None,
) -> None:
    """Write down what is asked; on a study that has begun, refuse to ask anything else.

    `typed` are the overrides of the experiment, `settings` those of the sweep. `n_trials` is None where
    it was not typed: a study that goes on keeps its total.
    """
    asked, owner = space.describe(), study.user_attrs.get(EXPERIMENT, str(experiment))
    if owner != str(experiment):
        raise UserError(f"{study.study_name} is a study of {owner}: take another study_name")
    before = study.user_attrs.get(QUESTION) if EXPERIMENT in study.user_attrs else None
    if before is not None and before != asked:
        name = next(key for key in sorted(before | asked) if before.get(key) != asked.get(key))
        old, new = before.get(name, "(not set)"), asked.get(name, "(not set)")
        raise UserError(
            f"{study.study_name} has {name}={old}, not {new}: that would be a new study"
        )
    n_trials = len(space.points) or n_trials
    if n_trials is not None:
        study.set_user_attr(N_TRIALS, n_trials)
    study.set_user_attr(SETTINGS, settings)
    if before is None:
        about = {QUESTION: asked, ARGUMENTS: typed, GRID: space.grid, EXPERIMENT: str(experiment)}
        for name, value in about.items():  # the experiment last: now it can be resumed
            study.set_user_attr(name, value)


def total(study: optuna.Study) -> int:
    """How many finished trials the study is to have."""
    return int(study.user_attrs[N_TRIALS])


def count(study: optuna.Study, *states: TrialState) -> int:
    """How many trials are in one of these states."""
    return len(study.get_trials(deepcopy=False, states=states))


def best_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The best trial, or those of the Pareto front; none before the first is complete."""
    if not count(study, TrialState.COMPLETE):
        return []
    return study.best_trials if len(study.directions) > 1 else [study.best_trial]


def wanted(study: optuna.Study) -> int:
    """How many trials are still to be started; of a grid, its other points and those that wait."""
    if study.user_attrs[GRID]:
        begun = sum(not _history(one) for one in study.get_trials(deepcopy=False))
        return max(0, total(study) - begun) + count(study, TrialState.WAITING)
    return total(study) - count(study, *FINISHED, TrialState.RUNNING)


def point_of(trial: optuna.Trial) -> int:
    """Which point of a grid a trial has: the first trials have one each, and one that runs again has the
    point of the first of its attempts. Processes that share a study need not agree on more."""
    others = trial.study.get_trials(deepcopy=False)
    first = next(iter(_history(others[trial.number])), trial.number)
    return sum(not _history(one) for one in others[:first])


def _history(trial: FrozenTrial) -> list[int]:
    """The earlier attempts of a trial, the first one first."""
    return list(trial.system_attrs.get("retry_history", []))


def is_redundant(trial: optuna.Trial) -> bool:
    """Whether so many trials came before this one that its study needs no more: when several
    processes start the last trials at the same moment."""
    if trial.study.user_attrs[GRID]:
        return point_of(trial) >= total(trial.study)
    others = trial.study.get_trials(deepcopy=False)
    before = [one for one in others if one.number < trial.number]
    return sum(one.state is not TrialState.FAIL for one in before) >= total(trial.study)


def requeue_lost_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Fail and queue again the trials of sweeps that are gone; returns those.

    On this machine they are known by their process, at once; those of other machines by their
    heartbeat.
    """
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    optuna.storages.fail_stale_trials(study)
    for trial in filter(_is_lost, running):
        with suppress(UpdateFinishedTrialError):  # another process was faster
            study._storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)
            interrupted(study, trial)
    now = study.get_trials(deepcopy=False)
    return [now[one.number] for one in running if now[one.number].state is TrialState.FAIL]


def _is_lost(trial: FrozenTrial) -> bool:
    owner = trial.user_attrs.get(PROCESS)
    if owner is None:  # just begun; or killed then, before its first heartbeat
        began = trial.datetime_start or datetime.now()
        return datetime.now() - began > timedelta(seconds=GRACE_PERIOD)
    return is_gone(owner)


def interrupted(study: optuna.Study, trial: FrozenTrial) -> None:
    """What a trial's sweep would have done, had it not been killed."""
    queue_again(study, trial, failures(trial))


def queue_again(study: optuna.Study, trial: FrozenTrial, failures: int) -> None:
    """Let a new trial run with the parameters of one that failed, as far as it had any."""
    history = [*_history(trial), trial.number]
    known = {"failed_trial": trial.number, **trial.system_attrs}
    study.add_trial(
        optuna.create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            system_attrs={**known, "retry_history": history, FAILURES: failures},
        )
    )


def failures(trial: FrozenTrial) -> int:
    """How often its parameters had failed before it, by no fault of the sweep."""
    return int(trial.system_attrs.get(FAILURES, 0))
