"""A study in MLflow: one parent run with the best, the table of trials and the plots; a child a trial."""

import logging
import math
import queue
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from src.utils.paths import Experiment
from src.utils.run import Run, create_run
from src.utils.runs.artifacts import record_run
from src.utils.store.location import is_server, tracking_uri
from src.utils.store.mlflow import experiment_id, open_store
from src.utils.study.study import (
    EXPERIMENT,
    FINISHED,
    INTERRUPTED,
    REASON,
    best_trials,
    count,
    study_lock,
    total,
)
from src.utils.sweep.live_table import print_study_summary
from src.utils.sweep.plots import draw
from src.utils.terminal import format_metric, format_settings

import optuna
from mlflow.entities import Param
from mlflow.entities import Run as StoredRun
from mlflow.store.tracking.dbmodels.models import SqlParam
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking import MlflowClient
from omegaconf import DictConfig, OmegaConf
from optuna.trial import FrozenTrial, TrialState

log = logging.getLogger(__name__)
RUN_ID = "run_id"  # user attribute of the study, and of each trial
MOST_RUNS = 50_000  # MLflow's limit for one search
REFRESH = 20.0  # seconds between two redrawings while the sweep runs
SHARE = 0.05  # of the time, at most, is spent on drawing
PRUNED = "(pruned)"
MOST_LINKS = 20  # to trials, of a Pareto front
OBJECTIVE = "objective"  # what main returned, where that is no metric of the run
MODES = {"MAXIMIZE": "max", "MINIMIZE": "min"}
# optuna_dashboard.save_note writes the same, and takes a second to import.
VERSION, TEXT, LONGEST = "dashboard:note_ver", "dashboard:note_str:", 2045
LOCAL = "http://127.0.0.1:5000"  # where scripts/mlflow_ui.sh serves by default


class StudyReport:
    """Opened for the time of a sweep; writes in a thread of its own, which no trial waits for."""

    def __init__(self, study: optuna.Study, experiment: Experiment, config: DictConfig) -> None:
        self.study, self.experiment, self.config = study, experiment, config
        self.folder = Path(config.hydra.sweep.dir)
        self.client = open_store()
        self.run = self._parent()
        self._ended: queue.SimpleQueue[FrozenTrial | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, daemon=True)

    def _parent(self) -> Run:
        """The run of the study: a new one, or, on resume, the one it had."""
        known = self.study.user_attrs.get(RUN_ID)
        if known is not None:
            self.client.update_run(known, status="RUNNING")
            return Run(self.client, known, self.experiment, [])
        name = self.study.study_name
        run = create_run(self.experiment, {"optuna.study": name}, [], name)
        note, labels = str(self.config.get("note", "")), list(self.config.get("tags", []))
        try:
            record_run(self.client, run.id, run.folder, self.experiment, note, labels)
        except BaseException:
            run.close("FAILED")
            raise
        self.study.set_user_attr(RUN_ID, run.id)
        return run

    def __enter__(self) -> "StudyReport":
        self._writer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.put(None)
        self._writer.join()
        with study_lock(self.study.study_name):
            self._settle()
            self._refresh()
        self._summarise()
        stopped = isinstance(error, SystemExit | KeyboardInterrupt)
        self.run.close("KILLED" if stopped else "FAILED" if error else "FINISHED")

    def trial_ended(self, trial: FrozenTrial) -> None:
        """Take note of how a trial ended."""
        self._ended.put(trial)

    def _write(self) -> None:
        due = time.monotonic() + REFRESH
        while (trial := self._ended.get()) is not None:
            if RUN_ID in trial.user_attrs:
                with study_lock(self.study.study_name):
                    self._close(trial.user_attrs[RUN_ID], trial)
            began = time.monotonic()
            if began > due:
                self.refresh()
                due = time.monotonic() + max(REFRESH, (time.monotonic() - began) / SHARE)

    def _close(self, run_id: str, trial: FrozenTrial) -> None:
        """Say on a trial's run how it ended, and end the run where its process could not."""
        self.client.set_tag(run_id, "optuna.state", trial.state.name.lower())
        add_inputs(self.client, self.run.id, run_id)
        if trial.state is TrialState.COMPLETE:
            name_objective(self.client, self.study, trial)
        if trial.state is TrialState.PRUNED:  # MLflow knows no such status: finished
            self._mark_pruned(run_id, f"trial {trial.number}")
        if trial.state is TrialState.FAIL:
            reason = trial.user_attrs.get(REASON, INTERRUPTED)
            self.client.set_tag(run_id, "reason", reason)
            if self.client.get_run(run_id).info.status == "RUNNING":
                status = "KILLED" if reason == INTERRUPTED else "FAILED"
                self.client.set_terminated(run_id, status)

    def _mark_pruned(self, run_id: str, trial: str) -> None:
        """In its name, `trial 7 (pruned) …`, which every table and chart shows."""
        name = self.client.get_run(run_id).info.run_name
        if PRUNED not in name:
            self.client.update_run(run_id, name=name.replace(trial, f"{trial} {PRUNED}", 1))

    def _settle(self) -> None:
        """Close what a killed sweep had no time to: runs that still run, or don't say how they ended."""
        ended = {str(one.number): one for one in self.study.get_trials() if one.state.is_finished()}
        children = self.client.search_runs(
            [experiment_id(self.client, str(self.experiment))],
            f"tags.`mlflow.parentRunId` = '{self.run.id}'",
            max_results=MOST_RUNS,
        )
        for run in children:
            open_ended = run.info.status == "RUNNING" or "optuna.state" not in run.data.tags
            if open_ended and run.data.tags["optuna.trial"] in ended:
                self._close(run.info.run_id, ended[run.data.tags["optuna.trial"]])

    def _summarise(self) -> None:
        """Print what was found and what comes next, and write Hydra's `optimization_results.yaml`."""
        results = results_of(self.study)
        self.folder.mkdir(parents=True, exist_ok=True)
        for place in (self.folder, self.run.folder):
            OmegaConf.save(results, place / "optimization_results.yaml")
        typed: Any = OmegaConf.to_container(self.config.hydra.overrides.hydra, resolve=False)
        print_study_summary(self.study, self.experiment, typed)

    def refresh(self) -> None:
        """Write the best so far, the table and the plots; one process of those that share it at a time:
        MLflow fails where two set the same tag."""
        with study_lock(self.study.study_name):
            self._refresh()

    def _refresh(self) -> None:
        frame = self.study.trials_dataframe()
        frame.to_csv(self.run.folder / "trials.csv", index=False)
        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not done:
            return
        best = best_trials(self.study)
        self._log_best(best, len(done))
        save_note(self.study, self.client.get_run(self.run.id), best[:MOST_LINKS])
        draw(self.study, self.run.folder / "plots")

    def _log_best(self, best: list[FrozenTrial], step: int) -> None:
        """The best value under the objective's own name, and as tags what it was reached with; as
        parameters, too, once all trials are done."""
        single = len(self.study.directions) == 1
        tags = {
            f"best.{name.lstrip('+')}": str(value)  # MLflow takes no +, as typed for an added key
            for name, value in best[0].params.items()
        }
        best_run = best[0].user_attrs.get(RUN_ID, "")
        tags |= {"best.value": str(best[0].values), "best.run_id": best_run}
        if single:
            (name,) = self.study.metric_names or [OBJECTIVE]
            self.run.log(dict.fromkeys(("best_value", name), best[0].value or 0.0), step)
            self.run.metrics.flush()
            tags["monitor"] = f"{name} {MODES[self.study.direction.name]}"
        self.run.tag(tags)
        if single and best_run and count(self.study, *FINISHED) >= total(self.study):
            log_best_settings(self.run, best_run)


def results_of(study: optuna.Study) -> dict[str, Any]:
    """In the form of the official sweeper."""
    best = best_trials(study)
    if len(study.directions) > 1:
        solutions = [{"params": one.params, "values": one.values} for one in best]
        return {"name": "optuna", "solutions": solutions}
    if not best:
        return {"name": "optuna", "best_params": None, "best_value": None}
    return {"name": "optuna", "best_params": best[0].params, "best_value": best[0].value}


def name_objective(client: MlflowClient, study: optuna.Study, trial: FrozenTrial) -> None:
    """Give the objective its name with the first complete trial: the metric that it monitored, if
    that is what its main returned. Where it isn't, the run has the value as `objective`."""
    if len(study.directions) > 1 or trial.value is None:
        return
    run, mode = client.get_run(trial.user_attrs["run_id"]), MODES[study.direction.name]
    monitor, _, monitored_mode = run.data.tags.get("monitor", "").rpartition(" ")
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


def log_best_settings(run: Run, best_run: str) -> None:
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


def save_note(study: optuna.Study, run: StoredRun, best: list[FrozenTrial]) -> None:
    """Write the note anew, in Markdown."""
    text = _note(study, run, best)
    attributes = {
        f"{TEXT}{number}": text[start : start + LONGEST]
        for number, start in enumerate(range(0, len(text), LONGEST))
    }
    storage, study_id = study._storage, study._study_id
    version = storage.get_study_system_attrs(study_id).get(VERSION, 0) + 1
    for name, value in ({VERSION: version} | attributes).items():
        storage.set_study_system_attr(study_id, name, value)


def _note(study: optuna.Study, run: StoredRun, best: list[FrozenTrial]) -> str:
    lines = [
        f"**{study.user_attrs[EXPERIMENT]}** {run.data.tags.get('mlflow.note.content', '')}",
        f"[The study in MLflow]({page(run, run.info.run_id)})"
        + ("" if is_server(tracking_uri()) else ", while `bash scripts/mlflow_ui.sh` runs"),
        *(f"- {_linked(run, one)}" for one in best),
        f"`{run.data.tags.get('command', '')}`",
    ]
    return "\n\n".join(lines)


def _linked(run: StoredRun, trial: FrozenTrial) -> str:
    values = ", ".join(map(format_metric, trial.values))
    link = f"[trial {trial.number}]({page(run, trial.user_attrs.get('run_id', ''))})"
    return f"{link}: {values} with {format_settings(trial.params)}"


def page(run: StoredRun, run_id: str) -> str:
    """The address of a run of the same MLflow experiment."""
    server = tracking_uri() if is_server(tracking_uri()) else LOCAL
    place = f"#/experiments/{run.info.experiment_id}/runs/{run_id}?workflowType=machine_learning"
    return f"{server.rstrip('/')}/{place}"


# MERGED sweep/study_run: What a study's MLflow run takes from its trials: the objective's name, the best settings, the data.

# MERGED sweep/dashboard: What optuna-dashboard shows of a study beside its trials: a note, with links to the runs in MLflow.
