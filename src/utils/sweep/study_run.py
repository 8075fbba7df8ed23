"""The run of a study in MLflow: the parent of the runs of its trials.

It has the best value and its parameters, the table of trials and the plots, and is updated while the sweep
runs. Several processes may share a study: one at a time writes, and the last one that leaves closes the run.
This file also names the objective, and writes the state of each trial to its run. What its pages say is
in `src/utils/sweep/study_page.py`.
"""

import logging
import math
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

from src.utils.notification import notifier
from src.utils.paths import Experiment
from src.utils.process import HEARTBEAT_INTERVAL
from src.utils.run import Run, create_run
from src.utils.runs.artifacts import log_inputs_of, record_run
from src.utils.runs.heartbeat import take_over
from src.utils.store.mlflow import open_store, search_children
from src.utils.store.objective import MONITOR, Objective
from src.utils.store.record import REASON
from src.utils.study.lock import study_lock
from src.utils.study.processes import announce, leave
from src.utils.study.study import (
    INTERRUPTED,
    RUN_ID,
    best_trials,
    count_trials,
    has_lost_its_run,
    is_complete,
)
from src.utils.sweep.live_table import print_study_summary
from src.utils.sweep.plots import draw_plots
from src.utils.sweep.study_page import describe_study, save_study_note, save_trial_note

import optuna
from mlflow.entities import Param
from mlflow.entities import Run as StoredRun
from mlflow.store.tracking.dbmodels.models import SqlParam
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking import MlflowClient
from omegaconf import DictConfig, OmegaConf
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

log = logging.getLogger(__name__)
OBJECTIVE = "objective"  # metric: what main returned, where that is no metric of the run
PRUNED = "(pruned)"  # in the name of a trial's run
REFRESH_DUE = "refresh_due"  # user attribute: the time of the next update, in seconds since 1970
REFRESH = 20.0  # seconds between two updates, of all processes together
MAX_REFRESH_SHARE = 0.05  # of the time; with many trials, the plots take long


class StudyRun:
    """Creates or reopens the run of a study, updates it during the sweep, and closes it.

    A thread of its own writes, so that no trial waits for it. The caller holds the study's lock.

    Raises:
        UserError: the MLflow store can't be opened.
    """

    def __init__(self, study: optuna.Study, experiment: Experiment, config: DictConfig) -> None:
        self.study, self.experiment, self.config = study, experiment, config
        self.folder = Path(config.hydra.sweep.dir)
        self.client = open_store()
        self.run = self._open_run()
        notifier.begin(self.run.id)
        announce(study)
        self._has_news = False
        self._ended_trials: queue.SimpleQueue[FrozenTrial | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, daemon=True)

    def _open_run(self) -> Run:
        """The run that the study already has, or a new one. It stays closed where nothing is left to do."""
        run_id = self.study.user_attrs.get(RUN_ID)
        if run_id is not None:
            if not (self._is_closed(run_id) and is_complete(self.study)):
                take_over(self.client, run_id)
            return Run(self.client, run_id, self.experiment, [])
        name = self.study.study_name
        run = create_run(self.experiment, {"optuna.study": name}, [], name)
        note, labels = str(self.config.get("note", "")), list(self.config.get("tags", []))
        try:
            record_run(self.client, run.id, run.folder, self.experiment, note, labels)
        except BaseException:
            run.close("FAILED")
            raise
        self.study.set_user_attr(RUN_ID, run.id)
        self.study.set_user_attr(REFRESH_DUE, time.time() + REFRESH)
        return run

    def _is_closed(self, run_id: str) -> bool:
        return bool(self.client.get_run(run_id).info.status == "FINISHED")

    def __enter__(self) -> "StudyRun":
        self.run.begin()
        self._writer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended_trials.put(None)
        self._writer.join()
        with self._lock():
            self._close_trial_runs()
            self._save_results()
            others = leave(self.study)
            closes = self._close(error, others)
        overrides: Any = OmegaConf.to_container(self.config.hydra.overrides.hydra, resolve=False)
        print_study_summary(self.study, self.experiment, overrides)
        if not closes:
            notifier.has_begun = False  # the process that closes the run tells of it
        if others and not is_complete(self.study):
            log.info("%d other process%s on with it", others, " goes" if others == 1 else "es go")

    def _close(self, error: BaseException | None, others: int) -> bool:
        """Close the run, unless other processes go on with the study, or one has closed it."""
        complete = is_complete(self.study)
        if (others and not complete) or self._is_closed(self.run.id):
            self.run.close(None)
            return False
        self._refresh()
        is_stopped = isinstance(error, SystemExit | KeyboardInterrupt)
        is_finished = error is None or (is_stopped and complete)
        self.run.close("FINISHED" if is_finished else "KILLED" if is_stopped else "FAILED")
        return True

    def _lock(self) -> AbstractContextManager[object]:
        return study_lock(self.study.study_name, self.study._storage)

    def on_trial_end(self, trial: FrozenTrial) -> None:
        """Let the writer's thread record how a trial has ended."""
        self._ended_trials.put(trial)

    def _write(self) -> None:
        for trial in self._ended():
            with self._lock():
                announce(self.study)
                if trial is not None and RUN_ID in trial.user_attrs:
                    self._close_trial_run(trial.user_attrs[RUN_ID], trial)
                self._has_news |= trial is not None
                self._refresh_if_due()

    def _ended(self) -> Iterator[FrozenTrial | None]:
        """Each trial that has ended, and None after a while without one."""
        while True:
            try:
                trial = self._ended_trials.get(timeout=HEARTBEAT_INTERVAL)
            except queue.Empty:
                yield None
                continue
            if trial is None:  # the sweep has ended
                return
            yield trial

    def _refresh_if_due(self) -> None:
        start = time.time()
        if self._has_news and start >= self.study.user_attrs.get(REFRESH_DUE, 0.0):
            self._refresh()
            self._has_news = False
            pause = max(REFRESH, (time.time() - start) / MAX_REFRESH_SHARE)
            self.study.set_user_attr(REFRESH_DUE, time.time() + pause)

    def _close_trial_run(self, run_id: str, trial: FrozenTrial) -> None:
        """Tag the run of a trial with its state, and end it where its own process could not."""
        if has_lost_its_run(self.study, trial):
            return
        self.client.set_tag(run_id, "optuna.state", trial.state.name.lower())
        log_inputs_of(self.client, run_id, self.run.id)
        if trial.state is TrialState.COMPLETE:
            name_objective(self.client, self.study, trial)
        if trial.state is TrialState.PRUNED:  # for MLflow it is a finished run
            self._mark_pruned(run_id, trial.number)
        if trial.state is TrialState.FAIL:
            stored, reason = self.client.get_run(run_id), trial.user_attrs.get(REASON, INTERRUPTED)
            if reason != INTERRUPTED or REASON not in stored.data.tags:  # which may say more
                self.client.set_tag(run_id, REASON, reason)
            if stored.info.status == "RUNNING":
                status = "KILLED" if reason == INTERRUPTED else "FAILED"
                self.client.set_terminated(run_id, status)
        save_trial_note(self.study, trial, self.client.get_run(run_id))

    def _mark_pruned(self, run_id: str, number: int) -> None:
        """In the run's name, `#7 (pruned) …`: every table and chart shows it."""
        name, trial = self.client.get_run(run_id).info.run_name, f"#{number}"
        if PRUNED not in name:
            self.client.update_run(run_id, name=name.replace(trial, f"{trial} {PRUNED}", 1))

    def _close_trial_runs(self) -> None:
        """Close the runs that a killed sweep left open or without the state of their trial."""
        ended = {  # by run: a trial from another machine may have another number than its run says
            one.user_attrs.get(RUN_ID, str(one.number)): one
            for one in self.study.get_trials()
            if one.state.is_finished()
        }
        for run in search_children(self.client, self.run.id):
            is_open = run.info.status == "RUNNING" or "optuna.state" not in run.data.tags
            trial = ended.get(run.info.run_id) or ended.get(run.data.tags["optuna.trial"])
            if is_open and trial:
                self._close_trial_run(run.info.run_id, trial)

    def _refresh(self) -> None:
        """Update the best value, the table of trials and the plots.

        The caller holds the lock of the study: MLflow fails where two processes set the same tag.
        """
        self.study.trials_dataframe().to_csv(self.run.folder / "trials.csv", index=False)
        complete = count_trials(self.study, TrialState.COMPLETE)
        if not complete:
            return
        best = best_trials(self.study)
        self._log_best(best, complete)
        draw_plots(self.study, self.run.folder / "plots")
        describe_study(self.client, self.study, self.run.id)
        save_study_note(self.study, self.client.get_run(self.run.id))

    def _log_best(self, best: list[FrozenTrial], step: int) -> None:
        """Log the best value by the name of the objective, and its parameters as tags; once all trials are
        finished, as parameters, too."""
        has_one_objective = len(self.study.directions) == 1
        tags = {
            f"best.{name.lstrip('+')}": str(value)  # MLflow takes no +, which adds a setting
            for name, value in best[0].params.items()
        }
        best_run = best[0].user_attrs.get(RUN_ID, "")
        tags |= {"best.value": str(best[0].values), "best.run_id": best_run}
        if has_one_objective:
            (name,) = self.study.metric_names or [OBJECTIVE]
            self.run.log(dict.fromkeys(("best_value", name), best[0].value or 0.0), step)
            self.run.metrics.flush()
            tags[MONITOR] = _objective(self.study, name).to_tag()
        self.run.tag(tags)
        if has_one_objective and best_run and is_complete(self.study):
            log_best_params(self.run, best_run)

    def _save_results(self) -> None:
        """Save `optimization_results.yaml`, as Hydra's official Optuna sweeper does."""
        results = optimization_results(self.study)
        self.folder.mkdir(parents=True, exist_ok=True)
        for folder in (self.folder, self.run.folder):
            OmegaConf.save(results, folder / "optimization_results.yaml")


def _objective(study: optuna.Study, metric: str) -> Objective:
    return Objective(metric, study.direction is StudyDirection.MAXIMIZE)


def name_objective(client: MlflowClient, study: optuna.Study, trial: FrozenTrial) -> None:
    """Name the objective of a study after the metric that its first complete trial monitored.

    That metric must be what main returned. Otherwise the name is `objective`, and each trial's run gets its
    value as a metric of that name.
    """
    if len(study.directions) > 1 or trial.value is None:
        return
    run = client.get_run(trial.user_attrs[RUN_ID])
    tagged = Objective.from_tags(run.data.tags)
    monitored = tagged and tagged.stored_in(run.data.metrics)
    name = monitored.metric if monitored else OBJECTIVE
    if monitored != _objective(study, name) or not _has_value(client, run, name, trial.value):
        name = OBJECTIVE
    if study.metric_names is None:
        study.set_metric_names([name])
    if study.metric_names == [OBJECTIVE]:
        client.log_metric(run.info.run_id, OBJECTIVE, trial.value)
        if monitored is None:
            client.set_tag(run.info.run_id, MONITOR, _objective(study, OBJECTIVE).to_tag())


def _has_value(client: MlflowClient, run: StoredRun, metric: str, value: float) -> bool:
    history = client.get_metric_history(run.info.run_id, metric)
    return any(math.isclose(one.value, value, rel_tol=1e-6) for one in history)


def log_best_params(run: Run, best_run: str) -> None:
    """Log the parameters of the best trial on the run of the study.

    A resumed study may find a better trial, and MLflow refuses to change a parameter. So the old parameters
    are first deleted from the database. A server does not allow that: the parameters then stay.
    """
    params = run.client.get_run(best_run).data.params
    old_params = run.client.get_run(run.id).data.params
    if old_params == params:
        return
    store = run.client._tracking_client.store
    if isinstance(store, SqlAlchemyStore):
        with store.ManagedSessionMaker() as session:
            session.query(SqlParam).filter(SqlParam.run_uuid == run.id).delete()
    elif old_params:
        log.warning("the server keeps the study's old parameters; its tags best.… are up to date")
        return
    run.client.log_batch(run.id, params=[Param(name, value) for name, value in params.items()])


def optimization_results(study: optuna.Study) -> dict[str, Any]:
    """Return the results in the format of Hydra's official Optuna sweeper."""
    best = best_trials(study)
    if len(study.directions) > 1:
        solutions = [{"params": trial.params, "values": trial.values} for trial in best]
        return {"name": "optuna", "solutions": solutions}
    if not best:
        return {"name": "optuna", "best_params": None, "best_value": None}
    return {"name": "optuna", "best_params": best[0].params, "best_value": best[0].value}
