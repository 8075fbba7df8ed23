"""An Optuna study: where it is stored, how far it has come, and what a killed sweep left behind."""

import sqlite3
import warnings
from pathlib import Path
from typing import Any

from src.utils.errors import UserError
from src.utils.layout import LOGS, Experiment
from src.utils.process import is_gone
from src.utils.question import Question

import optuna
import sqlalchemy
from filelock import FileLock
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

DEFAULT = f"sqlite:///{LOGS / 'optuna' / 'optuna.db'}"
HEARTBEAT, GRACE_PERIOD = 15, 60  # seconds; for trials of other machines
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
# What is written on a study
EXPERIMENT, QUESTION, ARGUMENTS, N_TRIALS = "experiment", "question", "arguments", "n_trials"
# … and on a trial: the process that runs it
OWNER = "owner"

optuna.logging.set_verbosity(optuna.logging.ERROR)  # the sweep tells the story
warnings.filterwarnings("ignore", category=ExperimentalWarning)  # heartbeats, and retries


def open_storage(url: str | None = None) -> BaseStorage:
    """Any Optuna storage URL; by default one SQLite file in WAL mode for all studies."""
    url = url or DEFAULT
    if url.startswith("redis"):
        return optuna.storages.get_storage(url)
    options: dict[str, Any] = {}
    if url.startswith("sqlite:///"):
        _write_ahead(Path(url.removeprefix("sqlite:///")))
        options = {"connect_args": {"timeout": 60}}
    storage = RDBStorage(
        url,
        options,
        heartbeat_interval=HEARTBEAT,
        grace_period=GRACE_PERIOD,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
    )
    if storage.engine.dialect.name == "sqlite":
        _lock_first(storage.engine)
    return storage


def _lock_first(engine: sqlalchemy.Engine) -> None:
    """Transactions that take SQLite's lock when they begin: otherwise two workers may read that the
    same trial waits, and both run it."""

    @sqlalchemy.event.listens_for(engine, "connect")
    def leave_transactions_to_us(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    @sqlalchemy.event.listens_for(engine, "begin")
    def begin(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _write_ahead(database: Path) -> None:
    """Create the file in WAL mode: readers don't block the one writer."""
    if database.exists():
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(database.with_suffix(".lock")), sqlite3.connect(database) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        RDBStorage(f"sqlite:///{database}").engine.dispose()  # two processes must not create tables
    connection.close()


def find_study(storage: BaseStorage, reference: str, here: Experiment) -> FrozenStudy:
    """The study that `reference` means: the `latest` of an experiment, or one by its name."""
    studies = [
        one for one in storage.get_all_studies() if one.user_attrs.get(EXPERIMENT) == str(here)
    ]
    for study in reversed(studies):
        if reference in ("latest", study.study_name):
            return study
    known = ", ".join(study.study_name for study in studies[-5:]) or "none yet"
    raise UserError(f"there is no study {reference!r} of {here} to resume; there are: {known}")


def begin(
    study: optuna.Study,
    here: Experiment,
    typed: list[str],
    question: Question,
    n_trials: int | None,
) -> None:
    """Write down what is asked; on a study that has begun, refuse to ask anything else.

    `n_trials` is None where it was not typed: a study that goes on keeps its total.
    """
    asked = question.describe()
    before = study.user_attrs.get(QUESTION)
    if before is not None and before != asked:
        name = next(key for key in sorted(before | asked) if before.get(key) != asked.get(key))
        old, new = before.get(name, "(not set)"), asked.get(name, "(not set)")
        raise UserError(
            f"{study.study_name} has {name}={old}, not {new}: that would be a new study"
        )
    if before is None:
        study.set_user_attr(QUESTION, asked)
        study.set_user_attr(ARGUMENTS, typed)
        study.set_user_attr(EXPERIMENT, str(here))
        for point in question.combinations() if question.grid else []:
            study.enqueue_trial(point)
    if question.grid:
        n_trials = len(question.combinations())
    if n_trials is not None:
        study.set_user_attr(N_TRIALS, n_trials)


def total(study: optuna.Study) -> int:
    """How many finished trials the study is to have."""
    return int(study.user_attrs[N_TRIALS])


def finished(study: optuna.Study) -> int:
    return len(study.get_trials(deepcopy=False, states=FINISHED))


def underway(study: optuna.Study) -> int:
    return len(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))


def waiting(study: optuna.Study) -> int:
    return len(study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))


def is_surplus(trial: optuna.Trial, n_trials: int) -> bool:
    """Whether so many trials came before this one that its study needs no more: when several
    processes start the last trials at the same moment."""
    others = trial.study.get_trials(deepcopy=False)
    return (
        sum(one.number < trial.number and one.state is not TrialState.FAIL for one in others)
        >= n_trials
    )


def reclaim(study: optuna.Study) -> list[FrozenTrial]:
    """Fail and queue again the trials of processes that are gone.

    On this machine they are known by their process, at once; those of other machines by their
    heartbeat.
    """
    optuna.storages.fail_stale_trials(study)
    lost = [
        trial
        for trial in study.get_trials(states=(TrialState.RUNNING,))
        if is_gone(trial.user_attrs.get(OWNER, "? 0 ?"))
    ]
    for trial in lost:
        note(study, trial, "reason", "its sweep was killed")
        study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        RetryHeartbeatStaleTrialCallback()(study, trial)
    gone = {trial.number for trial in lost}
    return [trial for trial in study.get_trials() if trial.number in gone]


def retry(study: optuna.Study, trial: FrozenTrial, max_retries: int | None) -> bool:
    """Queue a trial again, with its own parameters, unless it has failed too often."""
    RetryHeartbeatStaleTrialCallback(max_retries)(study, trial)
    attempts = len(trial.system_attrs.get("retry_history", []))
    return max_retries is None or attempts < max_retries


def note(study: optuna.Study, trial: FrozenTrial, name: str, value: Any) -> None:
    """Set an attribute of a trial that is no longer, or not, run by this process."""
    study._storage.set_trial_user_attr(trial._trial_id, name, value)
