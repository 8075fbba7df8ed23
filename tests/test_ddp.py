"""Distributed trainings: one run, whoever starts the processes, and they end together."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from conftest import Lab, add_experiment, made_once
from mlflow.entities import Run
from torch import Tensor

PROGRAM = "src/model/model95/ranks.py"
NAME = "model/model95"
SHORT = ("max_epochs=2", "trainer.accelerator=cpu", "trainer.log_every_n_steps=1")
TWO = ("trainer.devices=2", "trainer.strategy=ddp")
TORCHRUN = Path(sys.prefix) / "bin" / "torchrun"
Ended = list[tuple[int, str]]  # of each process its exit status, and what it printed


@pytest.fixture(scope="module")
def place(shared: Path, clone: Lab) -> Lab:
    """A clone with one experiment more, and a training of two processes that nothing has ended."""

    def make(place: Lab) -> None:
        clone.copied(place.root)
        add_experiment(place, PROGRAM, "defaults: [/training]\n")
        place.done(PROGRAM, *SHORT, *TWO)

    return made_once(shared / "ddp", make)


@pytest.fixture
def whole(place: Lab) -> dict[str, Tensor]:
    """The weights of that training."""
    return weights(place, place.runs(NAME)[-1])


def weights(lab: Lab, run: Run) -> dict[str, Tensor]:
    last = lab.artifacts(run) / "checkpoints" / "last.ckpt"
    return dict(torch.load(last, weights_only=True)["state_dict"])


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def assert_alone(lab: Lab) -> None:
    """No process of a training is left."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        commands = [one.info["cmdline"] or [] for one in psutil.process_iter(["cmdline"])]
        left = [line for line in commands if str(lab.root / PROGRAM) in line]
        if not left:
            return
        time.sleep(0.2)
    raise AssertionError(left)


def srun(lab: Lab, *overrides: str, job: str, restart: str = "0", **environment: str) -> Ended:
    """Two processes as `srun --ntasks=2` starts them on one node: with its variables, and nothing else in
    common."""
    slurm = {
        "SLURM_JOB_ID": job,
        "SLURM_STEP_ID": "0",
        "SLURM_RESTART_COUNT": restart,
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURM_NODEID": "0",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURMD_NODENAME": "n1",
    }
    command = (sys.executable, str(lab.root / PROGRAM), *SHORT, *TWO, *overrides)
    processes = [
        lab.start(*command, **slurm, **environment, SLURM_PROCID=rank, SLURM_LOCALID=rank)
        for rank in ("1", "0")
    ]
    return [ended(process) for process in reversed(processes)]


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = process.communicate(timeout=240)
    return process.returncode, out + err


@pytest.mark.parametrize(("who", "by", "status"), [("1", "SIGTERM", 143), ("0", "SIGINT", 130)])
def test_stopped_and_resumed(
    place: Lab, whole: dict[str, Tensor], who: str, by: str, status: int
) -> None:
    """A signal to any one process stops them all with a checkpoint; resumed, the training ends with the
    weights that it would have had, though each process draws random numbers of its own."""
    stopped = place.run(PROGRAM, *SHORT, *TWO, WHO=who, BY=by)
    assert stopped.returncode == status, stopped.stdout + stopped.stderr
    assert "Traceback" not in stopped.stdout + stopped.stderr
    run = place.newest(NAME)
    assert run.info.status == "KILLED"
    assert_alone(place)
    said = place.done(PROGRAM, f"resume_run={run.info.run_id}")
    assert said.count("resuming from step") == 1
    assert_same(weights(place, place.newest(NAME)), whole)


@pytest.mark.parametrize("who", ["0", "1"])
def test_killed(place: Lab, who: str) -> None:
    """When one process is killed the others end, and the run has failed; a line says which process it was."""
    killed = place.run(PROGRAM, *SHORT, *TWO, WHO=who, BY="SIGKILL")
    assert_alone(place)
    assert place.newest(NAME).info.status == "FAILED"
    errors = [line for line in killed.stderr.splitlines() if "Warning" not in line]
    if who == "1":
        assert killed.returncode == 1
        assert errors[-1].startswith("error: process 1 of this training was killed by SIGKILL")
    assert "Traceback" not in killed.stderr


def test_srun(place: Lab, whole: dict[str, Tensor]) -> None:
    """Tasks of srun train into one run with one folder; when all are preempted, and the same job starts
    again, they resume it."""
    runs, folders = len(place.runs(NAME)), len(output_folders(place))
    stopped = srun(place, job="7", WHO="all")
    assert [status for status, _ in stopped] == [143, 143], stopped
    run = place.newest(NAME)
    assert run.info.status == "KILLED"
    assert (len(place.runs(NAME)), len(output_folders(place))) == (runs + 1, folders + 1)
    resumed = srun(place, f"resume_run={run.info.run_id}", job="7", restart="1")
    assert [status for status, _ in resumed] == [0, 0], resumed
    assert "process 1 of 2" in resumed[1][1]
    assert_same(weights(place, place.newest(NAME)), whole)
    assert len(place.runs(NAME)) == runs + 1


def output_folders(lab: Lab) -> list[Path]:
    return [*(lab.root / "outputs" / NAME).glob("*/*")]


def test_torchrun(place: Lab, whole: dict[str, Tensor]) -> None:
    """So do the processes that torchrun starts."""
    runs = len(place.runs(NAME))
    process = place.start(TORCHRUN, "--nproc-per-node=2", place.root / PROGRAM, *SHORT, *TWO)
    status, said = ended(process)
    assert status == 0, said
    assert "process 1 of 2" in said
    assert len(place.runs(NAME)) == runs + 1
    assert_same(weights(place, place.newest(NAME)), whole)
