"""`notify=`: word of a run or sweep that has ended, by a shell command or Apprise; and no file records it."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from src.utils import notification
from src.utils.errors import UserError
from src.utils.notification import Notifier, check_targets, take_typed, without_typed

import psutil
import pytest
from conftest import FEATURE, Lab, until
from laboratory import said
from sweeps import SweepLab
from test_plain_models import NAME, PROGRAM, an_own_one, plain  # noqa: F401  fixtures

TOKEN = "T0KEN4711"
ENDLESS = "epochs=1000000"
APPEND = 'cat >> "$SAID"'  # a command that keeps what it is told
PAIR = ["rate=0.1,0.5", "epochs=2"]


@pytest.fixture(name="said_file")
def a_said_file(tmp_path: Path) -> Path:
    return tmp_path / "said.txt"


@pytest.fixture
def service() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A URL of Apprise on this machine, with a token in it, and what it has received."""
    received = []

    class Service(BaseHTTPRequestHandler):
        def do_POST(self):
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"json://user:{TOKEN}@127.0.0.1:{server.server_port}/{TOKEN}", received
        server.shutdown()


@pytest.mark.parametrize(
    ("arguments", "title", "line"),
    [
        (["note=why (not)"], "model/model92 finished: val_loss 0.6011", "why (not)"),
        (["-m", *PAIR], "sweep of model/model92 finished: val_loss ", "2 complete"),
        (["seeds=2"], "model/model92 finished: val_loss ", "± "),
    ],
    ids=["run", "sweep", "group"],
)
def test_service(
    own: SweepLab,
    service: tuple[str, list[dict[str, Any]]],
    arguments: list[str],
    title: str,
    line: str,
) -> None:
    """A service of Apprise is told once of a run, a sweep or a group; no file has the URL or its token."""
    url, received = service
    out = own.done(PROGRAM, *arguments, f"notify={url}")
    (message,) = received
    assert message["title"].startswith(title)
    assert line in message["message"]
    assert message["type"] == "success"
    assert TOKEN not in out
    found = subprocess.run(
        ["grep", "-rlaF", TOKEN, own.root], check=False, capture_output=True, text=True
    )
    assert found.stdout == ""


def test_command(own: SweepLab, said_file: Path) -> None:
    """A shell command has the message on stdin and in variables, which the shell reads as text alone."""
    command = f'cat > {said_file}; env | grep ^JIKKEN_ >> {said_file}; touch "x,y"'
    own.done(PROGRAM, "note=$(touch injected) `touch injected`", f"notify={command}")
    text = said_file.read_text()
    run = own.newest(NAME)
    assert text.startswith("model/model92 finished: val_loss 0.6011\n")
    assert f"lab show {run.info.run_id[:8]}\n" in text
    for value in (
        "OUTCOME=finished",
        f"RUN_ID={run.info.run_id}",
        "OBJECTIVE=val_loss",
        f"VALUE={run.data.metrics['val_loss']}",
        "NOTE=$(touch injected) `touch injected`",
    ):
        assert f"JIKKEN_{value}\n" in text
    assert (own.root / "x,y").exists()
    assert not (own.root / "injected").exists()
    assert "notify" not in run.data.params


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_stopped(own: SweepLab, said_file: Path, by: signal.Signals) -> None:
    """Ctrl-C and SIGTERM are told when the run is closed."""
    process = own.start(
        sys.executable, own.root / PROGRAM, ENDLESS, JIKKEN_NOTIFY=APPEND, SAID=str(said_file)
    )
    until(lambda: own.newest(NAME).info.status == "RUNNING" and own.newest(NAME).data.metrics)
    process.send_signal(by)
    process.communicate(timeout=60)
    assert process.returncode == 128 + by
    assert own.newest(NAME).info.status == "KILLED"
    name = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}[by]
    assert said_file.read_text().startswith(f"model/model92 stopped by {name}\n")


def test_stopped_sweep(own: SweepLab, said_file: Path) -> None:
    """SIGTERM ends a sweep as a second Ctrl-C does: its runs are closed, and one message says it."""
    arguments = ("-m", "rate=0.1,0.5", ENDLESS, "hydra.sweeper.n_jobs=2")
    process = own.start(
        *(sys.executable, own.root / PROGRAM, *arguments),
        JIKKEN_NOTIFY=APPEND,
        SAID=str(said_file),
    )
    until(lambda: sum(bool(run.data.metrics) for run in own.runs(NAME)) == 3)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert "RUNNING" not in [run.info.status for run in own.runs(NAME)]
    text = said_file.read_text()
    assert text.startswith("sweep of model/model92 stopped by SIGTERM\n")
    assert text.count("lab show") == 1


def test_other_sweeper(own: SweepLab, said_file: Path) -> None:
    """With Hydra's own sweepers, too, one message is sent at the end."""
    environment = {"JIKKEN_NOTIFY": APPEND, "SAID": str(said_file)}
    own.done(PROGRAM, "-m", "hydra/sweeper=basic", "epochs=2", **environment)
    title, *body = said_file.read_text().splitlines()
    assert title == "sweep of model/model92 finished"
    assert body[-1].endswith("lab runs")


def test_stages(bare: Lab, said_file: Path) -> None:
    """Of a stage that is run by hand one is told, of what is built on the way one is not."""
    bare.done(FEATURE, JIKKEN_NOTIFY=APPEND, SAID=str(said_file))
    assert len(bare.runs("dataset/dataset01")) == 1
    assert said_file.read_text().count("lab show") == 1
    assert said_file.read_text().startswith("feature/feature01 finished\n")


def test_rerun(own: SweepLab, said_file: Path) -> None:
    """`lab rerun` tells nobody, unless `notify` is typed, which it does not print."""
    environment = {"JIKKEN_NOTIFY": APPEND, "SAID": str(said_file)}
    typed = f"notify=echo {TOKEN} >> {said_file}.typed"
    out = said(own, "rerun", "latest", typed, **environment)
    assert "verdict: identical" in out
    assert TOKEN not in out
    assert not said_file.exists()
    assert Path(f"{said_file}.typed").read_text() == f"{TOKEN}\n"


def has_ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_failure(own: SweepLab, said_file: Path) -> None:
    """A failure is told with its reason. What hangs then is cut off, with its children; it, and what fails,
    is a warning of one line, and the exit code stays as it is."""
    child = said_file.with_name("child.txt")
    hanging = f"sleep 600 & echo $! > {child}; wait"
    targets = (f"cat > {said_file}", hanging, "exit 3", "json://127.0.0.1:1")
    typed = [f"notify={one}" for one in targets]
    ended = own.run(PROGRAM, "case=name", *typed, JIKKEN_NOTIFY_TIMEOUT="2")
    assert ended.returncode == 2
    assert said_file.read_text().startswith("model/model92 failed: run.save('../state.npz'): ")
    error, first, second, third = ended.stderr.splitlines()
    assert error.startswith("error: run.save('../state.npz'): ")
    assert first.startswith("warning: notify=sleep … failed: cut off after 2 s")
    assert second == "warning: notify=exit … failed: exit code 3"
    assert third.startswith("warning: notify=json://… failed: ")
    assert until(lambda: has_ended(int(child.read_text())), seconds=5)


def test_refused(own: SweepLab, said_file: Path) -> None:
    """A URL that Apprise does not know is refused in one line, before anything is written; of a command that
    is refused nobody is told."""
    before = own.files()
    for argument, environment in (
        ([f"notify=slack://{TOKEN}"], {}),
        ([], {"JIKKEN_NOTIFY": f"nothing://{TOKEN}"}),
    ):
        ended = own.run(PROGRAM, *argument, **environment)
        assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
        assert "://… is refused: Apprise has no such service" in ended.stderr
    ended = own.run(PROGRAM, "rate=-1", JIKKEN_NOTIFY=APPEND, SAID=str(said_file))
    assert (ended.returncode, said_file.exists()) == (2, False)
    assert own.files() == before


def test_settings_file(own: SweepLab, said_file: Path) -> None:
    """config.yaml may name a shell command, but no URL, whose token would be in a file."""
    file = own.root / "config" / NAME / "config.yaml"
    text = file.read_text()
    file.write_text(f"{text}notify: ntfy://{TOKEN}\n")
    ended = own.run(PROGRAM)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "notify=… is refused: it should be a shell command in config.yaml" in ended.stderr
    file.write_text(f"{text}notify: ['{APPEND}']\n")
    own.done(PROGRAM, SAID=str(said_file))
    assert said_file.read_text().startswith("model/model92 finished")


@pytest.mark.parametrize(
    ("typed", "targets"),
    [
        (['notify=notify-send "done, really"'], ['notify-send "done, really"']),
        (["notify='say done'"], ["say done"]),
        (["notify=[ntfy://topic,'say a,b']", "+notify=true"], ["ntfy://topic", "say a,b", "true"]),
        (["notify=a,b"], ["a,b"]),
        (["notify=[ -f x ] && say $HOME"], ["[ -f x ] && say $HOME"]),
        (["notify=null"], []),
        (["notify="], []),
        ([], ["from the file"]),
    ],
)
def test_typed(monkeypatch: pytest.MonkeyPatch, typed: list[str], targets: list[str]) -> None:
    """What is typed needs quotes for the shell alone, and goes before config.yaml and the environment."""
    monkeypatch.setattr(notification, "notifier", Notifier(configured=["from the file"]))
    monkeypatch.setenv("JIKKEN_NOTIFY", "from the environment")
    assert take_typed(["rate=1", *typed, "note=notify=x"]) == ["rate=1", "note=notify=x"]
    assert notification.notifier.targets == targets
    assert without_typed(["-m", *typed]) == ["-m"]


def test_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Apprise is not installed, a URL is refused with the command that installs it."""
    monkeypatch.setattr(notification, "notifier", Notifier(typed=["ntfy://topic"]))
    monkeypatch.setattr(notification, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="poetry install --extras notify"):
        check_targets()
    monkeypatch.setattr(notification, "notifier", Notifier(typed=["say done"]))
    check_targets()
