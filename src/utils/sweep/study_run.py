"""What a study's MLflow run takes from its trials: the objective's name, the best settings, the data."""

import logging
import math

from src.utils.run import Run

import optuna
from mlflow.entities import Param
from mlflow.entities import Run as StoredRun
from mlflow.store.tracking.dbmodels.models import SqlParam
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking import MlflowClient
from optuna.trial import FrozenTrial

log = logging.getLogger(__name__)
OBJECTIVE = "objective"  # what main returned, where that is no metric of the run
MODES = {"MAXIMIZE": "max", "MINIMIZE": "min"}


def name_objective(client: MlflowClient, study: optuna.Study, trial: FrozenTrial) -> None:
    """Give the objective its name with the first complete trial: the metric that it monitored, if
    that is what its main returned. Where it isn't, the run has the value as `objective`."""
    if len(study.directions) > 1 or trial.value is None:
        return
    run, mode = client.get_run(trial.user_attrs["run_id"]), MODES[study.direction.name]
    monitor, _, monitored_mode = run.data.tags.get("monitor", "").partition(" ")
    is_monitored = monitored_mode == mode and _logged(client, run, monitor, trial.value)
    if study.metric_names is None:
        study.set_metric_names([monitor if is_monitored else OBJECTIVE])
    if study.metric_names == [OBJECTIVE]:
        client.log_metric(run.info.run_id, OBJECTIVE, trial.value)
        if not monitor:
            client.set_tag(run.info.run_id, "monitor", f"{OBJECTIVE} {mode}")


def _logged(client: MlflowClient, run: StoredRun, metric: str, value: float) -> bool:
    history = client.get_metric_history(run.info.run_id, metric)
    return any(math.isclose(one.value, value, rel_tol=1e-6) for one in history)


def add_inputs(client: MlflowClient, study_run: str, trial_run: str) -> None:
    """What a trial has read, its study has read too; MLflow keeps each data set once."""
    inputs = client.get_run(trial_run).inputs
    if inputs and inputs.dataset_inputs:
        client.log_inputs(study_run, inputs.dataset_inputs)


def keep_settings(run: Run, best_run: str) -> None:
    """The settings of the best trial as parameters of the study.

    MLflow refuses to change a parameter. A study that goes on may find a better trial: its old
    parameters are deleted from the database first. A server does not allow that either.
    """
    settings = run.client.get_run(best_run).data.params
    before = run.client.get_run(run.id).data.params
    if before == settings:
        return
    store = run.client._tracking_client.store
    if isinstance(store, SqlAlchemyStore):
        with store.ManagedSessionMaker() as session:
            session.query(SqlParam).filter(SqlParam.run_uuid == run.id).delete()
    elif before:
        log.warning("the server keeps the study's old parameters; its tags best.… are up to date")
        return
    rows = [Param(name, value) for name, value in settings.items()]
    run.client.log_batch(run.id, params=rows)
