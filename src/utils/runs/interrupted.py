"""The run of a trial that was interrupted: whoever takes up the trial goes on with this run.

The sweep queues such a trial again with the id of its run, and names it in the job of the new trial
(`resume_run=ID`), on whatever machine that runs.

| the run …                        | the new trial                                                       |
|----------------------------------|---------------------------------------------------------------------|
| was stopped                      | resumes it, from its last checkpoint                                |
| is finished                      | has its value, or is pruned as it was                               |
| can't be resumed                 | has a new run; the old one is closed as KILLED, with the reason     |
"""

import json
import logging
import sys
import time
from typing import Any

from src.utils.config.overrides import override_key
from src.utils.errors import UserError
from src.utils.paths import Experiment
from src.utils.pipeline.manifest import Manifest
from src.utils.process import is_rank_zero
from src.utils.runs.heartbeat import is_running
from src.utils.runs.member import returned_by
from src.utils.runs.resume import WARM_START, ResumePoint, find_resume_point
from src.utils.settings import AnySettings
from src.utils.store.mlflow import open_store
from src.utils.store.record import NOT_RESUMED, REASON
from src.utils.study.trial import Pruned, TrialLink

from mlflow.entities import Run as StoredRun
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)
PATIENCE = 90.0  # seconds in which the old process of a run may end, or be found dead
Start = tuple[AnySettings, ResumePoint | None, list[Manifest]]


def find_start(experiment: Experiment, typed: AnySettings) -> Start[AnySettings]:
    """Find where a run begins: the settings to run with, what it resumes, and its versions of inputs.

    Args:
        typed: the settings as they were composed.

    Raises:
        UserError: the run that the settings name can't be resumed. A trial begins a new one then.
    """
    trial, run_id = TrialLink.current(), getattr(typed, "resume_run", None)
    if trial is None or run_id is None:
        return _find_start(experiment, typed)
    try:
        return _find_start(experiment, typed.model_copy(update={"warm_start": None}))
    except UserError as error:
        if not is_rank_zero():
            raise
        reason = str(error).removesuffix(f"; {WARM_START.format(run_id[:8])}")
        log.warning("this trial begins anew: %s", reason)
        trial.set_user_attr(NOT_RESUMED, reason)
        _close(open_store(), run_id, reason)
    sys.argv = [one for one in sys.argv if override_key(one) != "resume_run"]  # which is recorded
    return _find_start(experiment, typed.model_copy(update={"resume_run": None}))


def _find_start(experiment: Experiment, typed: AnySettings) -> Start[AnySettings]:
    settings, start = find_resume_point(experiment, typed)
    return settings, start, start.check(experiment) if start is not None else []


def find_finished(typed: AnySettings) -> StoredRun | None:
    """The run of this trial, if it had finished before its sweep was interrupted.

    Where the sweep was killed a moment ago, the trial's own process then saves and ends: that is waited for.
    """
    run_id = getattr(typed, "resume_run", None)
    if TrialLink.current() is None or run_id is None or not is_rank_zero():
        return None
    client, end = open_store(), time.monotonic() + PATIENCE
    run = _read(client, run_id)
    while run is not None and _is_running(run) and time.monotonic() < end:
        time.sleep(1)
        run = _read(client, run_id)
    return run if run is not None and run.info.status == "FINISHED" else None


def result_of(run: StoredRun) -> Any:
    """Make a finished run that of this trial; returns what its `main` has returned.

    Raises:
        Pruned: the pruner had ended it.
    """
    trial = TrialLink.current()
    assert trial is not None
    trial.take_up(open_store(), run.info.run_id)
    returned = returned_by(run.data.tags)
    if not returned:
        raise Pruned("pruned before its sweep was interrupted")
    log.info("run %s had finished: its value is that of this trial", run.info.run_id[:8])
    return json.loads(returned)


def _read(client: MlflowClient, run_id: str) -> StoredRun | None:
    """A run; None if it was deleted."""
    try:
        run = client.get_run(run_id)
    except MlflowException:
        return None
    return run if run.info.lifecycle_stage == "active" else None


def _is_running(run: StoredRun) -> bool:
    return is_running(run.info.status, run.data.tags)


def _close(client: MlflowClient, run_id: str, reason: str) -> None:
    """Close a run that nobody will resume."""
    run = _read(client, run_id)
    if run is None or _is_running(run):
        return
    client.set_tag(run_id, REASON, f"interrupted, and not resumed: {reason}")
    if run.info.status == "RUNNING":
        client.set_terminated(run_id, "KILLED")
