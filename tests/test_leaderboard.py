"""What can be compared in a leaderboard, and what can't: objectives, data, names that several runs share."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import Lab
from laboratory import refused, said
from mlflow import MlflowClient

STUDY = "study {}"


class Store:
    """A store that is written by hand: each run is newer than the one before."""

    def __init__(self, file: Path) -> None:
        self.uri = f"sqlite:///{file}"
        self.client = MlflowClient(self.uri)
        self.now = 1_700_000_000_000

    def add(
        self,
        experiment: str,
        name: str,
        metrics: Mapping[str, float],
        params: Mapping[str, str] | None = None,
        **tags: str,
    ) -> str:
        """A finished run; `data_source` is the tag data.source."""
        found = self.client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else self.client.create_experiment(experiment)
        self.now += 1000
        tags = {key.replace("_", "."): value for key, value in tags.items()}
        run = self.client.create_run(number, start_time=self.now, tags=tags, run_name=name).info
        for key, value in metrics.items():
            self.client.log_metric(run.run_id, key, value)
        for key, text in (params or {}).items():
            self.client.log_param(run.run_id, key, text)
        self.client.set_terminated(run.run_id, "FINISHED", end_time=self.now + 500)
        return str(run.run_id)


@pytest.fixture(name="store")
def a_store(tmp_path: Path) -> Store:
    return Store(tmp_path / "mlflow.db")


def shown(clone: Lab, store: Store, *command: str) -> str:
    """The id of the run that a `lab` command shows."""
    text = said(clone, *command, "--json", MLFLOW_TRACKING_URI=store.uri)
    return str(json.loads(text)["id"])


def test_objectives_are_not_mixed(clone: Lab, store: Store) -> None:
    """The best is one of the newest run's experiment, by its own objective: an AUC is compared with no
    accuracy, and a study's best value is no objective of runs."""
    store.add("model/one", "accurate", {"val_acc": 0.99, "score": 9.0}, monitor="val_acc max")
    store.add("model/two", "study", {"best_value": 7.0}, optuna_study="study")
    store.add("model/two", "other", {"val_auc": 0.4, "score": 8.0}, monitor="val_auc max")
    worse = store.add("model/two", "worse", {"score": 2.0}, monitor="score min")
    better = store.add("model/two", "better", {"score": 1.0}, monitor="score min")
    for command in (("show", "best"), ("best", "two"), ("best", "model")):
        assert shown(clone, store, *command) == better
    store.client.delete_run(better)
    assert shown(clone, store, "best", "two") == worse
    store.add("model/three", "study", {"best_value": 7.0}, optuna_study="study of three")
    alone = store.add("model/three", "untold", {"val_acc": 0.5})
    assert shown(clone, store, "best", "three") == alone


def test_metric_of_steps_and_epochs(clone: Lab, store: Store) -> None:
    """What a module logs on steps and epochs is stored as two metrics: runs are ranked by that of epochs.
    A newest run that has no value yet, or a metric's name with spaces, changes nothing."""
    for experiment, tag, stored in (
        ("model/one", "train_loss min", "train_loss_epoch"),
        ("model/two", "mean loss min", "mean loss_epoch"),
    ):
        better = store.add(experiment, "better", {stored: 1.0, "val_acc": 0.1}, monitor=tag)
        store.add(experiment, "worse", {stored: 2.0, "val_acc": 0.9}, monitor=tag)
        store.add(experiment, "failed", {}, monitor=tag)
        assert shown(clone, store, "best", experiment) == better


def test_data_are_marked(clone: Lab, store: Store) -> None:
    """Where runs had different data, each is marked; else none is. No column is too narrow to be read,
    and no line longer than the terminal is wide."""
    params = {"learning_rate": "0.01"}
    metrics = {"val_acc": 0.9, "test_acc": 0.8, "val_recall_at_10_percent": 0.5}
    store.add("model/one", "a-run-with-a-name", metrics, params, data_source="sample")
    sample = said(clone, "runs", MLFLOW_TRACKING_URI=store.uri)
    assert "[sample]" not in sample
    params["learning_rate"] = "0.02"
    store.add("model/one", "full-data", metrics, params, data_source="full")
    for columns in ("60", "80", "120"):
        table = said(clone, "runs", MLFLOW_TRACKING_URI=store.uri, COLUMNS=columns)
        assert max(map(len, table.splitlines())) <= int(columns)
        for part in ("[sample]", "[full]", "learning_rate=0.02", "0.9000"):
            assert part in table
    assert "test_acc" in table


def test_several_experiments(clone: Lab, store: Store) -> None:
    """Runs of several experiments have the name of theirs, and the settings that differ within it."""
    for rate in ("0.01", "0.02"):
        store.add("model/one", f"one {rate}", {}, {"rate": rate, "width": "8"})
        store.add("model/two", f"two {rate}", {}, {"rate": "0.03", "depth": rate, "mode": "max"})
    store.add("model/three", "alone", {}, {"rate": "0.04"})
    table = said(clone, "runs", MLFLOW_TRACKING_URI=store.uri, COLUMNS="80")
    cells = ["model/three", "model/two depth=0.02", "model/one rate=0.02"]
    assert re.findall(r"model/.*\S", table)[:3] == cells
    one = said(clone, "runs", "-e", "one", MLFLOW_TRACKING_URI=store.uri, COLUMNS="80")
    assert "model/one" not in one


def test_objectives_of_several_experiments(clone: Lab, store: Store) -> None:
    """A table of several experiments has the objective of each in a column."""
    store.add("model/one", "first", {"val_acc": 0.9, "test_acc": 0.8}, monitor="val_acc max")
    store.add("model/two", "second", {"rmse": 0.125, "other": 1.0}, monitor="rmse min")
    table = said(clone, "runs", MLFLOW_TRACKING_URI=store.uri, COLUMNS="80")
    assert re.search(r"rmse +val_acc +differs", table)
    assert "0.1250" in table


def test_names_of_trials(clone: Lab, store: Store) -> None:
    """Every study has a `trial 1`: where several runs are meant, they are listed as they can be typed."""
    for number in (1, 2):
        store.add("model/one", STUDY.format(number), {}, optuna_study=STUDY.format(number))
        tags = {"optuna_study": STUDY.format(number), "optuna_trial": "1"}
        store.add("model/one", "trial 1", {"val_acc": 0.5}, **tags)
    line = refused(clone, "show", "trial 1", MLFLOW_TRACKING_URI=store.uri)
    assert "study 1/1" in line
    assert "study 2/1" in line
