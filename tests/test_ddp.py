"""Distributed trainings: one run, whoever starts the processes, and they end together."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from src.utils.config.cluster import with_environment
from src.utils.process import LAUNCH, Launch

import psutil
import pytest
from conftest import Lab, add_experiment, made_once
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning import Trainer
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor
from weights import assert_same, weights

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


def test_stopped_and_resumed(place: Lab, whole: dict[str, Tensor]) -> None:
    """A signal to any one process stops them all with a checkpoint; resumed, the training ends with the
    weights that it would have had, though each process draws random numbers of its own."""
    stopped = place.run(PROGRAM, *SHORT, *TWO, WHO="1")
    assert stopped.returncode == 143, stopped.stdout + stopped.stderr
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


BATCH = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "train"}
STEP = {
    **BATCH,
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trainer]:
    """Makes a Lightning trainer in a process with variables of Slurm."""
    monkeypatch.setenv("PATH", "/usr/bin")

    def make(variables: dict[str, str], **arguments: Any) -> Trainer:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        cpu = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
        return Trainer(**with_environment({**cpu, **arguments}))

    return make


def test_batch_script(slurm: Callable[..., Trainer]) -> None:
    """In a batch script of Slurm Lightning starts the processes itself, as on any machine."""
    trainer = slurm(BATCH, devices=2, strategy="ddp")
    assert isinstance(trainer.strategy.cluster_environment, LightningEnvironment)
    assert trainer.world_size == 2


def test_own_environment(slurm: Callable[..., Trainer]) -> None:
    """A cluster environment of one's own is used as it is."""
    own = LightningEnvironment()
    for given in ({"plugins": [own]}, {"plugins": own}):
        trainer = slurm(STEP, devices=2, strategy="ddp", **given)
        assert trainer.strategy.cluster_environment is own
    own_strategy = DDPStrategy(cluster_environment=own)
    assert slurm(STEP, devices=2, strategy=own_strategy).strategy.cluster_environment is own


def test_place_in_a_step(slurm: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch) -> None:
    """A task of srun knows its place; where each sees its own GPU alone, it is a node with one device."""
    trainer = slurm(STEP, devices=2, num_nodes=2, strategy="ddp")
    assert trainer.world_size == 2 * 2
    assert trainer.global_rank == 0, "the tasks of a step that have runs of their own"
    monkeypatch.setenv(LAUNCH, "slurm")
    trainer = slurm(STEP, devices=2, num_nodes=2, strategy="ddp")
    places = (trainer.global_rank, trainer.local_rank, trainer.node_rank, trainer.world_size)
    assert places == (2, 0, 1, 4)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    given = with_environment({"accelerator": "gpu", "devices": 2, "num_nodes": 2})
    assert (given["devices"], given["num_nodes"]) == (1, 4)
    environment = given["plugins"][0]
    assert (environment.local_rank(), environment.node_rank(), environment.global_rank()) == (
        0,
        2,
        2,
    )


def test_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that is started again, and another step of the same job, are other launches."""
    assert Launch.current() is None
    ids = set()
    for changed in ({}, {"SLURM_RESTART_COUNT": "1"}, {"SLURM_STEP_ID": "1"}):
        for name, value in (STEP | changed).items():
            monkeypatch.setenv(name, value)
        launch = Launch.current()
        assert launch is not None
        assert (launch.local_size, launch.nodes) == (2, 2)
        ids.add(launch.id)
    assert len(ids) == 3


def test_refused(place: Lab) -> None:
    """Numbers of processes that don't agree are refused in each of them, before the run, in one line; so is
    what starts processes of its own."""
    for status, said in srun(place, "trainer.devices=3", job="8"):
        assert status == 2
        assert "error: trainer.devices=3 on 1 nodes are 3 processes; srun has started 2" in said
        assert said.count("error: ") == 1
