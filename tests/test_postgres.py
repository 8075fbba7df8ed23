"""Studies and runs in a PostgreSQL database, which several machines can share."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from src.utils.study.lock import study_lock
from src.utils.study.storage import open_storage
from src.utils.transfer.study_files import read_study, write_study

import optuna
import psycopg
import pytest
from conftest import MODEL, QUICK, Lab, until
from laboratory import said
from scale.postgres import create_database
from sweeps import TOY, SweepLab, create_fresh_toys, states  # noqa: F401  a fixture
from test_pages import served


@pytest.fixture
def database(postgres_server: str, request: pytest.FixtureRequest) -> str:
    """The address of an empty database."""
    return create_database(postgres_server, request.node.name)


@contextmanager
def studied(database: str) -> Iterator[optuna.Study]:
    """The only study in a database."""
    storage = optuna.storages.RDBStorage(database)
    try:
        yield optuna.load_study(study_name=None, storage=storage)
    finally:
        storage.engine.dispose()


def most_connections(database: str, processes: list[subprocess.Popen[str]]) -> int:
    """How many there were to a database at a time until processes have ended."""
    place, name = database.rsplit("/", 1)
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
    counts = []
    with psycopg.connect(f"{place}/postgres", autocommit=True) as connection:
        while any(process.poll() is None for process in processes):
            counts += [row[0] for row in connection.execute(query, (name,))]
            time.sleep(0.01)
    return max(counts)


def test_sharing(fresh_toys: SweepLab, database: str) -> None:
    """Processes that begin at the same moment on an empty database share one study, to one total; with their
    trials they have two connections each at most."""
    name = "hydra.sweeper.study_name=shared"
    asked = ["-m", "x=interval(0,1)", "hydra.sweeper.n_trials=12", "hydra.sweeper.n_jobs=1", name]
    command = [sys.executable, fresh_toys.root / TOY, *asked]
    processes = [fresh_toys.start(*command, OPTUNA_STORAGE=database) for _ in range(3)]
    assert most_connections(database, processes) <= 2 * len(processes)
    for process in processes:
        out, err = process.communicate(timeout=240)
        assert (process.returncode, err) == (0, ""), out + err
    with studied(database) as study:
        assert states(study)["COMPLETE"] == 12
        assert fresh_toys.study_run(study).info.status == "FINISHED"
        failed = [trial for trial in study.trials if trial.state.name != "COMPLETE"]
        reasons = {trial.user_attrs["reason"] for trial in failed}
        assert reasons <= {"another process had finished the study"}  # begun by several at once
        assert len(fresh_toys.trial_runs(study)) == 12
        notes = study._storage.get_study_system_attrs(study._study_id)
        ids = [one._trial_id for one in study.trials if one.state.name == "COMPLETE"]
        assert {notes.get(f"dashboard:{number}:note_ver") for number in ids} == {1}


def test_resuming(fresh_toys: SweepLab, database: str) -> None:
    """A sweep that was killed goes on to its total; the command that goes on further is told in full."""
    place = f"hydra.sweeper.storage={database}"
    asked = ["x=interval(0,1)", "seconds=0.5", "hydra.sweeper.n_trials=6", place]
    process = fresh_toys.start_sweep(TOY, *asked)
    until(lambda: len(fresh_toys.trial_folders()) > 2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()

    end = fresh_toys.sweep(TOY, "resume_study=latest", place)
    with studied(database) as study:
        assert states(study)["COMPLETE"] == 6
        assert states(study)["RUNNING"] == 0
        assert f"-m resume_study={study.study_name} {place} hydra.sweeper.n_trials=12" in end
    assert f"OPTUNA_STORAGE={database} bash scripts/optuna_dashboard.sh" in end


HOLD = """
import time
from src.utils.study.lock import study_lock
from src.utils.study.storage import open_storage
with study_lock("locked", open_storage({database!r})):
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_lock(clone: Lab, database: str) -> None:
    """Of the processes that share a study, on whatever machine, one holds its lock; one that is killed
    loses it."""
    process = clone.start(sys.executable, "-c", HOLD.format(database=database))
    assert process.stdout and process.stdout.readline() == "held\n"
    free = threading.Event()

    def wait() -> None:
        storage = open_storage(database)
        with study_lock("another", storage), study_lock("locked", storage):
            free.set()
        storage.engine.dispose()

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert not free.wait(2)
    process.kill()
    process.communicate()
    waiting.join(30)
    assert free.is_set()


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_server_that_restarts(postgres_server: str, database: str) -> None:
    """A storage outlives a restart of its server, which ends all connections and refuses new ones for a
    while."""
    name = database.rpartition("/")[2]
    storage = open_storage(database)
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
        )
        allow = f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"
        timer = threading.Timer(1, lambda: connection.execute(allow))
        timer.start()
        assert storage.get_all_studies() == []
        timer.join()
    storage.engine.dispose()


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_study_travels(database: str, tmp_path: Path) -> None:
    """A study comes into the database and out of it, with its trials, each once."""
    file, again = tmp_path / "study.db", tmp_path / "again.db"
    study = optuna.create_study(storage=f"sqlite:///{file}", study_name="travels")
    study.add_trial(optuna.create_trial(value=0.5, user_attrs={"run_id": "a"}))
    assert write_study(database, "travels", file)
    assert not write_study(database, "travels", file)
    study.add_trial(optuna.create_trial(value=0.25, user_attrs={"run_id": "b"}))
    assert write_study(database, "travels", file)
    assert read_study(database, "travels", again)
    copy = optuna.load_study(study_name="travels", storage=f"sqlite:///{again}")
    assert [one.value for one in copy.trials] == [0.5, 0.25]
    assert [one.datetime_start for one in copy.trials] == [
        one.datetime_start for one in study.trials
    ]


def test_runs(fresh: Lab, database: str, tmp_path: Path) -> None:
    """With MLFLOW_TRACKING_URI runs are in the database, their artifacts in logs/mlruns; models load,
    MLflow's page opens on the runs, and runs travel into the database and out of it."""
    remote = {"MLFLOW_TRACKING_URI": database}
    fresh.done(MODEL, *QUICK, **remote)
    run = json.loads(said(fresh, "show", "latest", "--json", **remote))
    assert run["status"] == "finished"
    assert (
        len(list((fresh.root / "logs/mlruns/model/model01").glob(f"{run['id']}/artifacts/*"))) == 6
    )
    assert not (fresh.root / "mlruns").exists()
    printed, _ = fresh.python(
        f"""
        from src.utils.tracking import load_model
        print(load_model("{run["id"][:6]}", trust_source=True).config.hidden)
        """,
        **remote,
    )
    assert printed == "32\n"
    with served(fresh, "mlflow_ui", **remote) as page, urlopen(page) as answer:
        assert "metrics.`val_acc`" in answer.read().decode()

    there, back = tmp_path / "there", tmp_path / "back"
    said(fresh, "push", there)  # of SQLite
    said(fresh, "pull", there, **remote)
    assert "nothing to do" in said(fresh, "pull", there, **remote)
    said(fresh, "push", back, **remote)
    for file in there.glob("runs/*/*.json"):
        assert (back / file.relative_to(there)).read_text() == file.read_text()
    assert len(list(back.glob("runs/*/run.json"))) == len(list(there.glob("runs/*/run.json"))) + 1
