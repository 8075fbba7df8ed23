"""The run of a worker's job: a worker that is started again, on whatever machine, goes on with it.

A run that a worker begins or resumes has the name of its job as a tag. The worker that is started next
resumes this run, as `resume_run=ID` would; where it is finished, nothing is left to do. Trials and members
have no such tag: their study or group knows them.
"""

import logging
import os
import sys
import time

from src.utils.config.overrides import override_key
from src.utils.errors import UserError
from src.utils.paths import Experiment
from src.utils.process import BUILDING, HEARTBEAT_LIMIT, WORKER, is_rank_zero
from src.utils.runs.downloads import artifact_folder
from src.utils.runs.heartbeat import is_running
from src.utils.runs.member import is_one_of_many
from src.utils.settings import REFERENCES
from src.utils.store.mlflow import open_store
from src.utils.store.record import JOB, REASON

from mlflow.entities import Run as StoredRun
from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)
PATIENCE = 2 * HEARTBEAT_LIMIT  # seconds in which a run that seems to go on ends, or is found dead
POLL = 1.0  # seconds


def job_tags() -> dict[str, str]:
    """The tag of the run that this worker was started for; none of any other run."""
    is_other = is_one_of_many() or BUILDING in os.environ
    return {} if is_other or WORKER not in os.environ else {JOB: os.environ[WORKER]}


def take_up_run(experiment: Experiment) -> None:
    """In a worker, have the command line resume the run that the job has begun; exit if it is finished."""
    if not job_tags() or not is_rank_zero():
        return
    client = open_store()
    run = _find(client, experiment)
    if run is None:
        return
    run = _wait_until_it_ends(client, run)
    short = run.info.run_id[:8]
    if run.info.status == "FINISHED":
        print(f"run {short} of this job is finished", flush=True)
        sys.exit()
    try:
        artifact_folder(client, run)
    except UserError as error:
        _close(client, run, error)
        return
    print(f"run {short} of this job goes on", flush=True)
    kept = [one for one in sys.argv[1:] if override_key(one) not in REFERENCES]
    # Further ranks are started with these arguments, too
    sys.argv[1:] = [*kept, f"resume_run={run.info.run_id}"]


def _find(client: MlflowClient, experiment: Experiment) -> StoredRun | None:
    """The run that the job began last."""
    found = client.get_experiment_by_name(str(experiment))
    if found is None:
        return None
    query = f"tags.`{JOB}` = '{os.environ[WORKER]}'"
    runs = client.search_runs([found.experiment_id], query, max_results=1)
    return runs[0] if runs else None


def _wait_until_it_ends(client: MlflowClient, run: StoredRun) -> StoredRun:
    """The engine has lost the worker before this one: its heartbeat stops, or it is still saving."""
    end = time.monotonic() + PATIENCE
    while is_running(run.info.status, run.data.tags) and time.monotonic() < end:
        time.sleep(POLL)
        run = client.get_run(run.info.run_id)
    return run


def _close(client: MlflowClient, run: StoredRun, error: UserError) -> None:
    """Close a run that nobody can resume; the job begins a new one."""
    print(f"this job begins a new run: {error}", flush=True)
    client.set_tag(run.info.run_id, REASON, f"interrupted, and not resumed: {error}")
    client.set_terminated(run.info.run_id, "KILLED")
