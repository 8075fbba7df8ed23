"""MLflow Projects: `mlflow run .` trains, searches, and tracks into the same store."""

import shutil
import subprocess
import sys
from pathlib import Path

from conftest import MODEL, ROOT, Lab

MLFLOW = Path(sys.prefix) / "bin" / "mlflow"
TINY = [f"program={MODEL}", "network=mlp", "hidden=32", "max_epochs=1", "trainer.accelerator=cpu"]


def project(
    lab: Lab, entry: str, *parameters: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`mlflow run . -e … -P …` in a copy."""
    shutil.copy(ROOT / "MLproject", lab.root)
    settings = [part for one in (*TINY, *parameters) for part in ("-P", one)]
    command = (MLFLOW, "run", ".", "-e", entry, *settings, "--env-manager", "local")
    path = {"PATH": "/usr/bin:/bin", "PYTHONPATH": ""}  # the environment is not on it
    process = lab.start(*command, **path, **environment)
    out, err = process.communicate(timeout=240)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def test_main(fresh: Lab) -> None:
    """Every setting can be a -P, prose with quotes among them; the run is in the one store."""
    note = "isn't it, learning_rate=1?"
    done = project(fresh, "main", "learning_rate=0.003", f"note={note}")
    assert done.returncode == 0, done.stderr
    run = fresh.newest()
    assert run.info.status == "FINISHED"
    assert (run.data.params["learning_rate"], run.data.params["note"]) == ("0.003", note)
    assert fresh.artifacts(run).is_dir()


def test_search(fresh: Lab) -> None:
    """The entry point `search` is a sweep; told of the store, MLflow keeps its own run there too."""
    count = len(fresh.runs("model/model01"))
    search = ["learning_rate=interval(0.001,0.01)", "hydra.sweeper.n_trials=2"]
    done = project(fresh, "search", *search, MLFLOW_TRACKING_URI="sqlite:///logs/mlruns/mlflow.db")
    assert done.returncode == 0, done.stderr
    assert len(fresh.runs("model/model01")) == count + 3  # the study and its trials
    assert fresh.newest("Default").data.params["hydra.sweeper.n_trials"] == "2"
    assert fresh.artifacts(fresh.newest()).is_dir()


def test_failure(fresh: Lab) -> None:
    """A refused setting fails the project, and says why."""
    done = project(fresh, "main", "dropout=-1")
    assert done.returncode != 0
    assert "dropout=-1 is refused" in done.stderr
