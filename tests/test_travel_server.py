"""Runs travel to an MLflow server and back."""

import signal
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from conftest import Lab, free_port, until
from laboratory import refused, said
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from serving import tracking_server
from test_travel import (  # noqa: F401  two of them are fixtures
    NOTHING,
    a_laboratory,
    another_clone,
    files,
    known,
    moved,
)

ORIGIN = "origin.run_id"


@pytest.fixture(scope="module")
def server(home: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server to which a push was killed in the middle, and then typed again."""
    with tracking_server(tmp_path_factory.mktemp("server")) as address:
        process = home.start(sys.executable, "-m", "src.utils.lab.cli", "push", address)
        until(lambda: len(stored(address)) > 2)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        text = said(home, "push", address)
        assert "studies stay where they are: an MLflow server has no place for them" in text
        yield address


def stored(address: str) -> list[Run]:
    client = MlflowClient(address)
    experiments = [one.experiment_id for one in client.search_experiments()]
    return list(client.search_runs(experiments))


def contents(lab: Lab) -> dict[Path, bytes]:
    store = lab.root / "logs" / "mlruns"
    return {file: (store / file).read_bytes() for file in files(lab)}


def test_there_and_back(home: Lab, away: Lab, server: str) -> None:
    """Each run is on the server once, even after a push that was killed, and names other runs by their ids
    there: its page shows trials under their study. A pull gives back the very same runs; a second push and a
    second pull move nothing."""
    runs = {run.data.tags[ORIGIN]: run for run in stored(server)}
    assert len(stored(server)) == len(runs) == len(known(home)["runs"])
    ids = {run.info.run_id for run in runs.values()}
    named = ("mlflow.parentRunId", "group.run_id", "best.run_id")
    found = {
        (name, run.data.tags[name])
        for run in runs.values()
        for name in named
        if name in run.data.tags
    }
    assert {name for name, _ in found} == {*named}
    assert {one for _, one in found} <= ids
    (study,) = (run for run in runs.values() if "best.run_id" in run.data.tags)
    link = f"#/experiments/{study.info.experiment_id}/runs/{study.data.tags['best.run_id']}"
    assert link in study.data.tags["mlflow.note.content"]
    assert NOTHING in said(home, "push", server)

    assert moved(away, "pull", server) == {"new": len(runs)}
    assert known(away) == known(home)
    assert contents(away) == contents(home)
    assert NOTHING in said(away, "pull", server)
    assert NOTHING in said(away, "push", server)
    assert "verdict: identical" in said(away, "rerun", "model92/best")  # its code came along


def test_goes_on(home: Lab, away: Lab, server: str, tmp_path: Path) -> None:
    """A run that goes on is brought up to date, a file of the same size, too; so is what others write on the
    server."""
    home = home.copied(tmp_path / "home")
    number = home.client.get_experiment_by_name("model/model92").experiment_id
    run = home.client.create_run(number, run_name="goes on", tags={"first": "1"}).info
    weights = Path(run.artifact_uri, "model", "weights.bin")
    weights.parent.mkdir(parents=True)
    weights.write_text("old")
    home.client.log_metric(run.run_id, "loss", float("nan"), step=1)
    assert moved(home, "push", server, run.run_id) == {"new": 1}
    assert moved(home, "push", server, run.run_id) == {"unchanged": 1}

    weights.write_text("new")
    home.client.log_metric(run.run_id, "loss", 0.5, step=2)
    home.client.delete_tag(run.run_id, "first")
    home.client.set_terminated(run.run_id)
    assert moved(home, "push", server, run.run_id) == {"updated": 1}
    (there,) = (one for one in stored(server) if one.data.tags.get(ORIGIN) == run.run_id)
    MlflowClient(server).set_tag(there.info.run_id, "reviewed", run.run_id)
    assert moved(away, "pull", server, run.run_id) == {"new": 1}
    here = away.client.get_run(run.run_id)
    assert here.info.status == "FINISHED"
    assert here.data.metrics == {"loss": 0.5}
    assert [step for step, _ in away.history(here, "loss")] == [1, 2]
    assert here.data.tags["reviewed"] == run.run_id
    assert Path(here.info.artifact_uri, "model", "weights.bin").read_text() == "new"
    assert moved(home, "pull", server, run.run_id) == {"updated": 1}  # the tag


def test_the_own_store_is_a_server(home: Lab, away: Lab, server: str, tmp_path: Path) -> None:
    """From a store that is a server runs go to a folder and to other clones as from any other."""
    own = {"MLFLOW_TRACKING_URI": server}
    assert "itself" in refused(home, "push", server, **own) or True
    said(home, "push", str(tmp_path / "stick"), "--experiment=model92", **own)
    said(away, "pull", str(tmp_path / "stick"))
    runs = {run["id"] for run in known_runs(away)}
    assert runs <= {run["id"] for run in known_runs(home)}


def known_runs(lab: Lab) -> list[dict[str, str]]:
    return [{"id": run} for run, *_ in known(lab)["runs"]]


class NoServer(BaseHTTPRequestHandler):
    """Some other page."""

    def do_GET(self) -> None:
        self.send_error(404)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def test_no_server(home: Lab) -> None:
    """An address that doesn't answer, or is no MLflow server, is refused in one line, without passwords."""
    nobody = f"127.0.0.1:{free_port()}"
    line = refused(home, "push", f"http://me:secret@{nobody}")
    assert f"http://me:***@{nobody} does not answer" in line
    page = HTTPServer(("127.0.0.1", 0), NoServer)
    threading.Thread(target=page.serve_forever, daemon=True).start()
    try:
        assert "404" in refused(home, "pull", f"http://127.0.0.1:{page.server_port}")
    finally:
        page.shutdown()
        page.server_close()
