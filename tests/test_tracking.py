"""The MLflow store: many at once, moved about, or on a server."""

import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from conftest import DATASET, MODEL, QUICK, Lab, copy_experiment
from mlflow.tracking import MlflowClient
from serving import tracking_server

TEN_AT_ONCE = """
    import os, sys
    from src.utils.paths import Experiment
    from src.utils.runs.metric_buffer import MetricBuffer
    from src.utils.store.mlflow import experiment_id, open_store

    children = []
    for number in range(10):
        children.append(os.fork())
        if not children[-1]:
            client = open_store()
            run = client.create_run(experiment_id(client, f"model/crowd{number % 3}"))
            metrics = MetricBuffer(client, run.info.run_id)
            for step in range(200):
                metrics.add({"loss": number + step / 1000, "acc": step}, step)
                if step % 10 == 0:
                    metrics.flush()
            metrics.flush()
            client.set_terminated(run.info.run_id)
            sys.stdout.flush()
            os._exit(0)
    sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""


def test_start_together(bare: Lab) -> None:
    """Three programs that start at once on an empty logs/ make one store, and a run each."""
    for number in (2, 3):
        copy_experiment(bare, "dataset/dataset01", f"dataset/dataset0{number}")
    programs = [
        bare.root / DATASET.replace("dataset01", f"dataset0{number}") for number in (1, 2, 3)
    ]
    started = [bare.start(sys.executable, program, "source=sample") for program in programs]
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert errors == ""
    assert [len(bare.runs(f"dataset/dataset0{number}")) for number in (1, 2, 3)] == [1, 1, 1]


def test_ten_at_once(fresh: Lab) -> None:
    """Ten processes that log at once lose nothing and find no database locked."""
    assert "locked" not in "".join(fresh.python(TEN_AT_ONCE))
    runs = [run for number in range(3) for run in fresh.runs(f"model/crowd{number}")]
    assert [run.info.status for run in runs] == ["FINISHED"] * 10
    first = []
    for run in runs:
        losses, accuracies = fresh.history(run, "loss"), fresh.history(run, "acc")
        assert accuracies == [(step, step) for step in range(200)]
        first.append(round(losses[0][1]))
        assert losses == [(step, pytest.approx(first[-1] + step / 1000)) for step in range(200)]
    assert sorted(first) == list(range(10))


def test_write_ahead(lab: Lab) -> None:
    """The store is in WAL mode: whoever looks at runs does not hold up whoever writes them."""
    with closing(sqlite3.connect(lab.root / "logs/mlruns/mlflow.db")) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_moved_repository(lab: Lab, tmp_path: Path) -> None:
    """A moved repository finds all of its runs and their artifacts; the one it came from keeps its own."""
    place = tmp_path / "実験 new_place #1, 100%"
    moved = lab.copied(tmp_path / "first").root.rename(place)
    said, _ = Lab(place).python("""
        from mlflow.artifacts import list_artifacts
        from src.utils.store.mlflow import open_store
        from src.utils.tracking import load_model

        client = open_store()
        for experiment in client.search_experiments():
            for run in client.search_runs([experiment.experiment_id]):
                print(run.info.artifact_uri, [file.path for file in client.list_artifacts(run.info.run_id)])
        print(type(load_model(experiment_name="model01")).__name__)
    """)
    runs = [line for line in said.splitlines() if "artifacts" in line]
    assert len(runs) == 3
    assert [
        line for line in runs if f"{moved}/logs/mlruns/" not in line or "provenance" not in line
    ] == []
    assert said.endswith("MLP\n")
    assert Path(lab.newest().info.artifact_uri).is_relative_to(lab.root)


@pytest.mark.parametrize("address", ["runs.db", "link/runs.db"])
def test_other_databases(fresh: Lab, address: str) -> None:
    """A database of another name, by a relative path or a link, keeps its artifacts beside itself."""
    (fresh.root / "elsewhere").mkdir()
    (fresh.root / "link").symlink_to("elsewhere")
    fresh.done(DATASET, MLFLOW_TRACKING_URI=f"sqlite:///{address}")
    place = (fresh.root / address).resolve()
    client = MlflowClient(f"sqlite:///{place}")
    stored = client.get_experiment_by_name("dataset/dataset01")
    assert stored is not None
    assert Path(stored.artifact_location) == place.parent / "dataset/dataset01"
    (run,) = client.search_runs([stored.experiment_id])
    assert (Path(run.info.artifact_uri) / "provenance/metadata.json").exists()


def test_borrowed_database(lab: Lab, tmp_path: Path) -> None:
    """The paths in a database that is another repository's, or a copy of ours, are left alone."""
    borrowed = tmp_path / "borrowed.db"
    own = sqlite3.connect(lab.root / "logs/mlruns/mlflow.db")
    with closing(own), closing(sqlite3.connect(borrowed)) as copy:
        own.backup(copy)
    lab.python(
        "from src.utils.store.mlflow import open_store; open_store()",
        MLFLOW_TRACKING_URI=f"sqlite:///{borrowed}",
    )
    stored = MlflowClient(f"sqlite:///{borrowed}").get_experiment_by_name("model/model01")
    assert stored is not None
    assert Path(stored.artifact_location).is_relative_to(lab.root)


@pytest.mark.parametrize(
    ("address", "reason"),
    {
        "nonsense://here": "nonsense://here is no MLflow store",
        "http://127.0.0.1:1": "http://127.0.0.1:1 does not answer: ",
        "mysql://me:secret@here/x": "mysql://me:***@here/x can't be opened: No module named 'MySQLdb'",
    }.items(),
)
def test_no_such_store(lab: Lab, address: str, reason: str) -> None:
    """A store that can't be had is named in one line, at once, and no password is shown."""
    refused = lab.run(MODEL, *QUICK, MLFLOW_TRACKING_URI=address)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"error: MLFLOW_TRACKING_URI={reason}")
    assert refused.stderr.count("\n") == 1


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a real tracking server, which also keeps the artifacts."""
    with tracking_server(tmp_path / "server") as address:
        yield address


def test_server(fresh: Lab, server: str) -> None:
    """MLFLOW_TRACKING_URI sends everything to a server; its models load for those who trust their source."""
    remote = {"MLFLOW_TRACKING_URI": server}
    fresh.done(MODEL, *QUICK, **remote)
    assert len(fresh.runs("model/model01")) == 1  # in the local store, as before

    client = MlflowClient(server)
    experiment = client.get_experiment_by_name("model/model01")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert len(client.get_metric_history(run.info.run_id, "train_loss_step")) == 36
    kept = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert kept == {"checkpoints", "config", "figures", "logs", "provenance", "source"}
    checkpoints = [file.path for file in client.list_artifacts(run.info.run_id, "checkpoints")]
    assert checkpoints == ["checkpoints/best.ckpt", "checkpoints/last.ckpt"]

    said, _ = fresh.python(
        f"""
        from src.utils.errors import UserError
        from src.utils.tracking import load_model
        try:
            load_model("{run.info.run_id}")
        except UserError as error:
            print(error)
        print(load_model("{run.info.run_id}", trust_source=True).config.hidden)
        """,
        **remote,
    )
    assert "trust_source=True" in said.splitlines()[0]
    assert said.splitlines()[-1] == "32"

    shutil.rmtree(fresh.root / "logs/lightning")  # as on another machine
    text = fresh.done(MODEL, *QUICK, f"warm_start={run.info.run_id}", **remote)
    assert "before its first checkpoint" not in text
    newest = client.search_runs([experiment.experiment_id])[0]
    assert newest.data.tags["warm_start_from"] == run.info.run_id
    first = [
        client.get_metric_history(one.info.run_id, "train_loss_step")[0].value
        for one in (run, newest)
    ]
    assert first[1] < first[0]
