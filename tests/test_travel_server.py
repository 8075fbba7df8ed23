"""Runs travel to an MLflow server and back."""

import signal
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from src.utils.errors import UserError
from src.utils.lab.transfer import Choice, transfer
from src.utils.runs.kept_code import is_kept
from src.utils.transfer.place import Place
from src.utils.transfer.portable import note_with_study
from src.utils.transfer.server import ServerPlace
from src.utils.transfer.where import target_place

import pytest
from conftest import Lab, free_port, until
from laboratory import refused, said
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from serving import tracking_server
from test_travel import (  # noqa: F401  two of them are fixtures
    a_laboratory,
    another_clone,
    files,
    known,
    moved,
    store_of,
)

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
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


def as_travelled(rows: dict[str, list[tuple]]) -> dict[str, list[tuple]]:
    """What a store knows, with no number of a study in links to its page."""
    tags = [(*key, note_with_study(value, 0)) for *key, value in rows["tags"]]
    return rows | {"tags": tags}


def nothing_to_do(source: Place, target: Place) -> bool:
    moved = transfer(source, target, Choice(), False, False).moved
    return {*moved.runs.values()} == {"unchanged"} and not moved.commits


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
    there = ServerPlace(server, server)
    assert nothing_to_do(store_of(home), there)

    assert moved(away, "pull", server) == {"new": len(runs)}
    (note,) = (
        run.data.tags["mlflow.note.content"]
        for run in away.runs("model/model92")
        if "best.run_id" in run.data.tags
    )
    assert "/dashboard/studies/0)" in note  # the study itself has stayed
    assert as_travelled(known(away)) == as_travelled(known(home))
    assert contents(away) == contents(home)
    assert nothing_to_do(there, store_of(away))
    commits = {run.data.tags["mlflow.source.git.commit"] for run in runs.values()}
    assert all(is_kept(commit, away.root / "logs" / "code.git") for commit in commits)


def test_goes_on(home: Lab, away: Lab, server: str, tmp_path: Path) -> None:
    """A run that goes on is brought up to date, a file of the same size, too; so is what others write on the
    server."""
    home = home.copied(tmp_path / "home")
    number = home.client.get_experiment_by_name("model/model92").experiment_id
    run = home.client.create_run(number, run_name="goes on", tags={"reason": "killed"}).info.run_id
    weights = home.artifacts(home.client.get_run(run)) / "model" / "weights.bin"
    weights.parent.mkdir(parents=True)
    weights.write_text("old")
    home.client.log_metric(run, "loss", float("nan"), step=1)
    assert brought(run, store_of(home), server) == "new"
    assert brought(run, store_of(home), server) == "unchanged"

    weights.write_text("new")
    home.client.log_metric(run, "loss", 0.5, step=2)
    home.client.delete_tag(run, "reason")
    home.client.set_terminated(run)
    assert brought(run, store_of(home), server) == "updated"
    (there,) = (one for one in stored(server) if one.data.tags.get(ORIGIN) == run)
    assert "reason" not in there.data.tags
    MlflowClient(server).set_tag(there.info.run_id, "reviewed", run)
    assert brought(run, server, store_of(away)) == "new"
    here = away.client.get_run(run)
    assert here.info.status == "FINISHED"
    assert here.data.metrics == {"loss": 0.5}
    assert [step for step, _ in away.history(here, "loss")] == [1, 2]
    assert here.data.tags["reviewed"] == run
    assert (away.artifacts(here) / "model" / "weights.bin").read_text() == "new"
    assert brought(run, server, store_of(home)) == "updated"  # the tag


def brought(run: str, source: Place | str, target: Place | str) -> str:
    """What becomes of a run that is brought from one place to another."""
    places = [ServerPlace(one, one) if isinstance(one, str) else one for one in (source, target)]
    return transfer(*places, Choice([run]), False, False).moved.runs[run]


def test_the_own_store_is_a_server(home: Lab, server: str, tmp_path: Path) -> None:
    """From a store that is a server runs go to a folder as from any other, by the ids that they had, with
    what the project has of them: studies and code."""
    own, stick = {"MLFLOW_TRACKING_URI": server}, tmp_path / "stick"
    assert "is the store of this project" in refused(home, "push", server, **own)
    said(home, "push", str(stick), "--where=study", **own)
    assert len([*stick.glob("studies/*.db")]) == len([*stick.glob("code.git/refs/commits/*")]) == 1
    there = {run.name for run in (stick / "runs").iterdir()}
    assert there <= {run for run, *_ in known(home)["runs"]}
    assert len(there) == 3


class NoServer(BaseHTTPRequestHandler):
    """Some other page."""

    def do_GET(self) -> None:
        self.send_error(404)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def test_no_server() -> None:
    """An address that doesn't answer, or is no MLflow server, is refused in one line, without passwords."""
    nobody = f"127.0.0.1:{free_port()}"
    with pytest.raises(UserError, match=rf"http://me:\*\*\*@{nobody} does not answer"):
        target_place(f"http://me:secret@{nobody}")
    page = HTTPServer(("127.0.0.1", 0), NoServer)
    threading.Thread(target=page.serve_forever, daemon=True).start()
    try:
        with pytest.raises(UserError, match="404"):
            target_place(f"http://127.0.0.1:{page.server_port}").runs()
    finally:
        page.shutdown()
        page.server_close()
