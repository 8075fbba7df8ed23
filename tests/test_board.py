"""What a person sees of searches that run elsewhere: `lab studies`, its live table, and `lab stop`."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from conftest import Lab, until
from laboratory import LAB, refused, said
from scripted import document
from sweeps import TOY, SweepLab
from test_lab_for_programs import documented_keys

# `lab`, with a Slurm whose answer is in a file
WITH_SLURM = """
    import json, sys
    from pathlib import Path
    from src.utils.lab import cli
    from src.utils.workers import engine

    class Slurm:
        def states(self, job):
            assert job.id == "1234"
            return json.loads(Path("slurm.json").read_text())

        def follow(self, job):
            return f"tail -F {{job.logs}}/*.out"

        def cancel(self, job):
            Path("slurm.json").write_text("{{}}")

    engine.ENGINES["slurm"] = ("__main__", "Slurm")
    sys.argv = ["lab", *{arguments!r}]
    cli.app()
"""
# A study of three trials, one of them done, for which four workers were submitted
STUDY = """
    import optuna
    from src.utils.study.storage import open_storage
    from src.utils.workers.job import Submitted

    study = optuna.create_study(storage=open_storage(), study_name="far", direction="maximize")
    job = Submitted("far", "slurm", "1234", count=4, time=1e9)
    job.logs.mkdir(parents=True)
    (job.logs / "2.out").write_text("begins\\nerror: x makes no sense\\n")
    attributes = {"experiment": "model/model90", "grid": False, "n_trials": 3, "arguments": []}
    for name, value in {**attributes, "workers": [job.to_dict()]}.items():
        study.set_user_attr(name, value)
    study.set_metric_names(["score"])
    study.add_trial(optuna.create_trial(value=0.5, user_attrs={"owner": "node7 12 34"}))
"""


@pytest.fixture(scope="module", name="toys")
def a_laboratory(clone: Lab, tmp_path_factory: pytest.TempPathFactory) -> SweepLab:
    """A laboratory with the toy experiment and the study `far`."""
    lab = SweepLab(clone.copied(tmp_path_factory.mktemp("board") / "lab").root)
    lab.add_toy()
    lab.git("add", ".")
    lab.git("commit", "--quiet", "--message=Toy")
    lab.python(STUDY)
    return lab


@pytest.fixture(scope="module", name="running")
def a_running_search(toys: SweepLab) -> Iterator[subprocess.Popen[str]]:
    """The study `near`, whose first two of four trials run on and on."""
    space = ("x=interval(0,1)", "hydra.sweeper.n_jobs=2", "hydra.sweeper.n_trials=4")
    process = toys.start_sweep(TOY, *space, "seconds=600", "hydra.sweeper.study_name=near")
    until(lambda: "near" in toys.studies() and toys.running_trials(2))
    yield process
    process.kill()
    process.communicate()


def test_no_studies(bare: Lab) -> None:
    """Before the first search it is said how one is made."""
    assert "-m" in refused(bare, "studies")


def test_running(toys: SweepLab, running: subprocess.Popen[str]) -> None:
    """`lab studies` says of a search on this machine which trials run where, without importing torch or
    MLflow; `lab stop` names its process."""
    answer = toys.question(LAB, "studies", "near")
    assert not {"torch", "mlflow"} & answer.imported
    host, runs = socket.gethostname(), toys.running_trials(2)
    assert "0/4, 2 running" in answer.text
    assert all(re.search(rf"{host} +{run.info.run_id[:8]}", answer.text) for run in runs)
    near = document(toys, "studies", "near")
    assert {*near} == documented_keys("studies")
    assert (near["name"], near["state"], near["n_trials"]) == ("near", "running", 4)
    assert {trial["run"] for trial in near["running"]} == {run.info.run_id for run in runs}
    assert f"where it runs ({running.pid} on {host})" in refused(toys, "stop", "near")


def test_following(toys: SweepLab, running: subprocess.Popen[str]) -> None:
    """Ctrl-C leaves the live table of a search that others run, says how to come back, and ends nothing."""
    terminal = toys.type_on_terminal(100, LAB, "studies", "near", "--follow")
    until(lambda: "0/4 trials" in terminal.text)
    os.killpg(terminal.process.pid, signal.SIGINT)
    assert terminal.end() == 0
    assert "lab studies near --follow" in terminal.text
    assert running.poll() is None


def test_killed(toys: SweepLab, running: subprocess.Popen[str]) -> None:
    """Of a search that was killed it is said how it goes on."""
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    text = said(toys, "studies", "latest")
    assert "0/4, stopped" in text
    assert "-m resume_study=near" in text
    assert "nothing of it runs" in refused(toys, "stop", "near")
    assert "resume_study=near" in refused(toys, "studies", "near", "--follow")


def with_slurm(lab: Lab, answer: dict[str, int], *arguments: str) -> tuple[int, str]:
    """The status of a `lab` command where Slurm gives this answer, and what it prints."""
    (lab.root / "slurm.json").write_text(json.dumps(answer))
    code = dedent(WITH_SLURM.format(arguments=arguments))
    process = lab.start(sys.executable, "-c", code)
    out, err = process.communicate(timeout=60)
    return process.returncode, out + err


def test_workers(toys: SweepLab) -> None:
    """Of a study with workers it is said what they do, and where what they print is."""
    status, text = with_slurm(toys, {"running": 3, "pending": 1}, "studies", "far")
    assert status == 0
    assert "slurm 1234, 4 workers: 3 running, 1 pending" in text
    assert "1/3, waiting" in text
    listed = json.loads(with_slurm(toys, {"running": 4}, "studies", "--limit", "0", "--json")[1])
    (workers,) = next(one for one in listed if one["name"] == "far")["workers"]
    assert (workers["count"], workers["states"]) == (4, {"running": 4})
    assert "workers/far/*.out" in text
    assert "lab stop far" in text


def test_stopping(toys: SweepLab) -> None:
    """`lab stop` ends all workers of a study, once."""
    status, text = with_slurm(toys, {"running": 4}, "stop", "far")
    assert status == 0
    assert "slurm 1234, 4 workers: 4 running" in text
    assert json.loads((toys.root / "slurm.json").read_text()) == {}
    assert "had ended" in with_slurm(toys, {}, "stop", "far")[1]
    assert documented_keys("stop") == {
        *json.loads(with_slurm(toys, {}, "stop", "far", "--json")[1])
    }


# Two studies that others have made
EMPTY = """
    import optuna
    from src.utils.study.storage import open_storage

    for name in ("first", "second"):
        study = optuna.create_study(storage=open_storage(), study_name=name)
        study.set_user_attr("experiment", "model/model90")
"""
# The board of `far`: first with workers that end too early, then with some that do the other two trials
BOARD = """
    import logging, sys
    import optuna
    from src.utils.study.storage import open_storage
    from src.utils.sweep import board
    from src.utils.workers import engine
    from src.utils.workers.job import jobs_of

    class Slurm:
        def states(self, job):
            answer = answers.pop(0) if answers else "{}"
            if answer == "done":
                study.add_trial(optuna.create_trial(value=0.25))
                study.add_trial(optuna.create_trial(value=0.75))
            return {"running": 4} if answer == "done" else eval(answer)

    engine.ENGINES["slurm"] = ("__main__", "Slurm")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    board.REFRESH = board.ASK = 0.1
    study = optuna.load_study(study_name="far", storage=open_storage())
    for answers in (["{'pending': 4}", "{'running': 3, 'pending': 1}"] * 2, ["done"]):
        try:
            board.show_board(study, jobs_of(study.user_attrs))
        except Exception as error:
            print("refused:", error)
"""


def test_board(toys: SweepLab) -> None:
    """The board says what workers do whenever that changes, and what the last one has printed if all have
    ended too early; a trial that ends is a line, and the summary comes last."""
    lines = toys.python(BOARD)[0].splitlines()
    begin = "far: 3 trials (hydra.sweeper.n_trials)"
    workers = ["slurm 1234, 4 workers: 4 pending", "slurm 1234, 4 workers: 3 running, 1 pending"]
    assert lines[:9] == [
        begin,
        *workers * 2,
        "slurm 1234, 4 workers: ended",
        "logs/workers/far/2.out ends with:",
        "  begins",
        "  error: x makes no sense",
    ]
    assert lines[9].startswith(
        "refused: all workers of far have ended after 1 of 3 trials; it goes on"
    )
    assert lines[10:12] == [begin, "slurm 1234, 4 workers: 4 running"]
    assert re.match(r"trial 1 +complete +0.2500", lines[12])
    assert re.match(r"trial 2 +complete +0.7500 .*best so far", lines[13])
    assert "far: 3 complete" in lines


def test_first_points(toys: SweepLab, tmp_path: Path) -> None:
    """Workers that begin at the same moment begin with different points, although they have one seed."""
    line = [TOY, "-m", "x=interval(0,1)", "hydra.sweeper.n_trials=1", "hydra/launcher=basic"]
    lines = [[*line, f"hydra.sweeper.study_name={name}"] for name in ("first", "second")]
    toys.python(EMPTY)
    ended = toys.run_lines(lines, tmp_path, JIKKEN_WORKER="workers")
    assert [code for code, _ in ended] == [0, 0], ended
    first, second = (toys.study(name).trials[0].params["x"] for name in ("first", "second"))
    assert first != second
