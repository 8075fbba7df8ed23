"""Artifacts reach a server while a run goes on, and a run that was killed goes on from them anywhere."""

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

from src.utils.process import this_process
from src.utils.runs import heartbeat, uploads
from src.utils.runs.downloads import order_checkpoints
from src.utils.runs.heartbeat import Heartbeat, is_running
from src.utils.runs.uploads import Uploads

import pytest
import torch
from conftest import MODEL, QUICK, ROOT, Lab, until
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from serving import tracking_server
from test_resuming import same

TRAINING = (*QUICK, "max_epochs=8", "checkpoint_every=5")  # of 18 steps an epoch
SLOW = """
class Slow(pl.Callback):
    def on_train_batch_start(self, *_):
        import os, time

        time.sleep(float(os.environ.get("SLOW", "0")))


"""


class Store:
    """In place of MLflow's client: keeps what is uploaded, or is gone."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str]] = []  # path and content, in their order
        self.gone = False

    def log_artifact(self, run_id: str, file: str, folder: str | None) -> None:
        if self.gone:
            raise ConnectionError("nobody answers")
        self.log.append((str(Path(folder or "") / Path(file).name), Path(file).read_text()))


RECORDS = """
import sys
from pathlib import Path
from src.utils.runs.uploads import Record

for number in range(500):
    Record("host 1 2", {"model": (number, 1)}).write(Path(sys.argv[1]))
    assert Record.read(Path(sys.argv[1])).files
"""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK_SECONDS", "BETWEEN_UPLOADS", "WRITING_SECONDS", "LAST_PAUSE"):
        monkeypatch.setattr(uploads, name, 0.05)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def folder(tmp_path: Path, store: Store, quick: None) -> Iterator[tuple[Path, Uploads]]:
    """A folder whose files are uploaded in the background."""
    one = Uploads(store, "run", tmp_path)  # type: ignore[arg-type]  # all that it needs of a client
    (tmp_path / "config").mkdir()
    (tmp_path / "logs").mkdir()
    (tmp_path / "config" / "config.yaml").write_text("settings")
    one.start()
    until(lambda: store.log)
    yield tmp_path, one
    one.finish(is_stopped=True)


def replace(file: Path, text: str) -> None:
    """Write a file as checkpoints are written."""
    file.with_name(f".{file.name}").write_text(text)
    file.with_name(f".{file.name}").replace(file)


def test_what_is_uploaded(folder: tuple[Path, Uploads], store: Store) -> None:
    """What is there at the start is uploaded at once, then what changes, the oldest file first; a log at the
    end, drafts never, and nothing twice."""
    place, one = folder
    assert store.log == [("config/config.yaml", "settings")]
    (place / "logs" / "run.log").write_text("line")
    (place / ".draft").write_text("half")
    replace(place / "weights", "1")
    replace(place / "step", "1")
    until(lambda: len(store.log) == 3)
    one.finish(is_stopped=False)
    assert store.log[1:] == [("weights", "1"), ("step", "1"), ("logs/run.log", "line")]
    later = Uploads(store, "run", place)  # type: ignore[arg-type]  # the run is resumed
    later.finish(is_stopped=False)
    assert len(store.log) == 4
    assert not (place / uploads.SNAPSHOT).exists()


def test_only_whole_files(folder: tuple[Path, Uploads], store: Store) -> None:
    """Of a file that is replaced all the time whole states are uploaded, at last the newest; one that is
    being written is not uploaded before it is complete."""
    place, _ = folder
    with (place / "growing").open("w") as file:
        for step in range(100):
            file.write(f"{step} ")
            file.flush()
            replace(place / "last", f"{step} " * 1000)
            time.sleep(0.01)
    until(lambda: ("growing", "".join(f"{step} " for step in range(100))) in store.log)
    until(lambda: ("last", "99 " * 1000) in store.log)
    kept = [text for name, text in store.log if name == "last"]
    assert 2 < len(kept) < 50
    assert all(len({*text.split()}) == 1 for text in kept)
    assert [name for name, _ in store.log].count("growing") == 1


def test_a_store_that_is_gone(
    folder: tuple[Path, Uploads], store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """What can't be uploaded is one warning, and is uploaded when the store is back."""
    place, one = folder
    store.gone = True
    with caplog.at_level(logging.WARNING):
        replace(place / "last", "1")
        until(lambda: caplog.records)
        time.sleep(0.3)
        store.gone = False
        until(lambda: ("last", "1") in store.log)
        one.finish(is_stopped=False)
    assert [record.getMessage() for record in caplog.records] == [
        "artifacts can't be uploaded now, which is tried again: nobody answers"
    ]


def test_the_end_is_bounded(
    tmp_path: Path, store: Store, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was stopped waits for its uploads for some seconds; one that has ended says what failed."""
    monkeypatch.setattr(uploads, "LONGEST_END", 0.2)
    monkeypatch.setattr(uploads, "LAST_SECONDS", 0.3)
    (tmp_path / "last").write_text("1")
    store.gone = True
    Uploads(store, "run", tmp_path).finish(is_stopped=True)  # type: ignore[arg-type]  # as above
    with pytest.raises(ConnectionError):
        Uploads(store, "run", tmp_path).finish(is_stopped=False)  # type: ignore[arg-type]  # as above


def test_order_of_downloads(tmp_path: Path) -> None:
    """Of downloaded checkpoints the one of the latest step is the newest, a damaged one the oldest."""
    for name, step in (("last.ckpt", 10), ("best.ckpt", 20), ("other.ckpt", 10)):
        torch.save({"global_step": step}, tmp_path / name)
    (tmp_path / "half.ckpt").write_text("?")
    order_checkpoints(tmp_path)
    by_age = sorted(tmp_path.iterdir(), key=lambda file: file.stat().st_mtime)
    assert [file.stem for file in by_age] == ["half", "other", "last", "best"]


def test_who_is_running() -> None:
    """A run is running while its process is here, or its heartbeat is young; the run of a study in any
    process. One of an earlier version may be running elsewhere."""
    here, now = this_process(), str(time.time())
    gone, elsewhere, old = (
        f"{socket.gethostname()} 1 0",
        "elsewhere 1 1",
        str(time.time() - 100),
    )
    study = {"optuna.study": "s"}
    running = [
        {"process": here, "heartbeat": old},
        {"process": elsewhere, "heartbeat": now},
        {"process": gone, "heartbeat": now, **study},
        {"process": elsewhere},
    ]
    dead = [
        {"process": gone, "heartbeat": now},
        {"process": elsewhere, "heartbeat": old},
        {"process": gone, "heartbeat": old, **study},
    ]
    assert [is_running("RUNNING", tags) for tags in running] == [True] * 4
    assert [is_running("RUNNING", tags) for tags in dead] == [False] * 3
    assert not is_running("FINISHED", running[0])


def test_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """The heartbeat is set until the run has ended, whatever fails; a fork in the middle of a beat waits. A
    process ends whose run another one has taken over."""
    monkeypatch.setattr(heartbeat, "HEARTBEAT_INTERVAL", 0.02)
    client, ended = Mock(), Mock()
    monkeypatch.setattr(os, "kill", ended)
    client.get_run.return_value.data.tags = {"process": this_process()}
    client.set_tag.side_effect = [ConnectionError, *[None] * 1000]
    beat = Heartbeat(client, "run")
    beat.start()
    until(lambda: client.set_tag.call_count > 2)
    with heartbeat._beating:
        monkeypatch.setattr(heartbeat, "LONGEST_BEAT", 0.1)
        child = os.fork()
        if child == 0:
            os._exit(heartbeat._beating.locked())
    assert os.waitpid(child, 0)[1] == 0
    beat.stop()
    time.sleep(0.1)
    count = client.set_tag.call_count
    time.sleep(0.1)
    assert client.set_tag.call_count == count

    client.get_run.return_value.data.tags = {"process": "another 1 1"}
    Heartbeat(client, "run").start()
    until(lambda: ended.called)
    ended.assert_called_once_with(os.getpid(), signal.SIGTERM)
    assert client.set_tag.call_count == count


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with tracking_server(tmp_path_factory.mktemp("server")) as address:
        yield address


def runs(server: str, experiment: str = "model/model01") -> list[Run]:
    client = MlflowClient(server)
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id])) if found else []


def killed(lab: Lab, server: str, *arguments: str) -> Run:
    """A run that is killed as soon as the server has the first state of its last checkpoint."""
    process = lab.start(
        sys.executable, lab.root / MODEL, *arguments, MLFLOW_TRACKING_URI=server, SLOW="0.1"
    )
    client = MlflowClient(server)

    def uploaded() -> bool:
        alive = (one.info.run_id for one in runs(server) if one.info.status == "RUNNING")
        found = [file.path for run in alive for file in client.list_artifacts(run, "checkpoints")]
        return "checkpoints/last.ckpt" in found

    try:
        until(uploaded)
    finally:
        process.kill()
        process.communicate()
    return runs(server)[0]


def weights(server: str, run: Run) -> dict[str, torch.Tensor]:
    file = MlflowClient(server).download_artifacts(run.info.run_id, "checkpoints/last.ckpt")
    return dict(torch.load(file, weights_only=True)["state_dict"])


def test_killed_and_resumed(fresh: Lab, server: str, tmp_path: Path) -> None:
    """A training that was killed goes on from what the server has, on another machine, bit for bit; not while
    its heartbeat is young."""
    program = fresh.root / MODEL
    text = program.read_text().replace("@experiment\n", f"{SLOW}@experiment\n")
    program.write_text(
        text.replace("tracked_trainer(run, cfg)", "tracked_trainer(run, cfg, callbacks=[Slow()])")
    )
    remote = {"MLFLOW_TRACKING_URI": server}
    elsewhere = fresh.copied(tmp_path / "elsewhere")
    fresh.done(MODEL, *TRAINING, **remote)
    (whole,) = runs(server)

    run = killed(fresh, server, *TRAINING)
    client, resume = MlflowClient(server), f"resume_run={run.info.run_id}"
    assert run.info.status == "RUNNING"
    client.set_tag(run.info.run_id, "process", "another-machine 1 1")
    refused = elsewhere.run(MODEL, resume, **remote)
    assert "is still running on another-machine, by its heartbeat: stop it first" in refused.stderr
    client.set_tag(run.info.run_id, "heartbeat", str(time.time() - 100))
    text = elsewhere.done(MODEL, resume, **remote)
    assert "resuming from step" in text
    resumed = client.get_run(run.info.run_id)
    assert resumed.info.status == "FINISHED"
    assert same(weights(server, resumed), weights(server, whole))


def test_workers_that_begin_together(tmp_path: Path) -> None:
    """Processes that share a run, as workers do that of their study, may all write its record at once."""
    command = [sys.executable, "-c", RECORDS, tmp_path]
    processes = [Lab(ROOT).start(*command) for _ in range(3)]
    outputs = ["".join(process.communicate(timeout=120)) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert [file.name for file in tmp_path.iterdir()] == [uploads.RECORD]
