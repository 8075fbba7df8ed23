"""What several processes and machines share: a study and its run, disks, cores and GPUs."""

import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

from src.utils.cores import count_cores, cpu_quotas
from src.utils.errors import UserError
from src.utils.process import this_process
from src.utils.store.mlflow import open_store
from src.utils.store.sqlite_file import check_database, create_database
from src.utils.study.processes import PROCESSES, announce, leave
from src.utils.study.storage import open_storage
from src.utils.sweep.slots import LEASES, Slots, physical_gpu, visible_gpus

import optuna
import pytest
from conftest import Lab, until
from sweeps import TOY, SweepLab, create_fresh_toys, states  # noqa: F401  a fixture

SHARED = ("x=interval(0,1)", "seconds=0.5", "hydra.sweeper.n_jobs=1", "hydra.sweeper.study_name=us")


def test_the_last_one_closes(fresh_toys: SweepLab, tmp_path: Path) -> None:
    """Of the processes on a study the last one that leaves closes its run, and tells of it, once; one that
    was killed is not waited for, and one that comes late finds all done."""
    said = tmp_path / "said.txt"
    tell = {"JIKKEN_NOTIFY": f"cat >> {said}"}
    command = [sys.executable, fresh_toys.root / TOY, "-m", *SHARED, "hydra.sweeper.n_trials=1000"]
    processes = [fresh_toys.start(*command, **tell) for _ in range(3)]
    try:
        leave_one_by_one(fresh_toys, said, *processes)
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    more = len(fresh_toys.study().get_trials(states=[optuna.trial.TrialState.COMPLETE])) + 2
    fresh_toys.sweep(TOY, *SHARED, f"hydra.sweeper.n_trials={more}", **tell)
    assert status(fresh_toys) == "FINISHED"
    ended = fresh_toys.study_run(fresh_toys.study()).info.end_time
    assert said.read_text().count("sweep of model/model90 finished") == 1
    late = fresh_toys.sweep(TOY, *SHARED, f"hydra.sweeper.n_trials={more}", **tell)
    assert f"{more} complete" in late
    assert fresh_toys.study_run(fresh_toys.study()).info.end_time == ended
    assert said.read_text().count("sweep of model/model90") == 2
    study = fresh_toys.study()
    assert {run.data.tags["optuna.state"] for run in fresh_toys.trial_runs(study)} <= {
        "complete",
        "fail",
    }


def leave_one_by_one(
    lab: SweepLab,
    said: Path,
    killed: subprocess.Popen[str],
    first: subprocess.Popen[str],
    last: subprocess.Popen[str],
) -> None:
    until(lambda: lab.studies() == ["us"] and here(lab) == 3, 240)
    until(lambda: states(lab.study())["COMPLETE"] > 2)
    os.killpg(killed.pid, signal.SIGKILL)
    first.send_signal(signal.SIGTERM)
    out, err = first.communicate(timeout=240)
    assert "1 other process goes on with it" in out + err
    assert (first.returncode, status(lab)) == (143, "RUNNING")
    assert not said.exists()
    last.send_signal(signal.SIGTERM)
    last.communicate(timeout=240)
    assert (last.returncode, status(lab)) == (143, "KILLED")
    assert said.read_text().count("sweep of model/model90 stopped by SIGTERM") == 1


def here(lab: SweepLab) -> int:
    return len(lab.study().user_attrs.get(PROCESSES, {}))


def status(lab: SweepLab) -> str:
    return str(lab.study_run(lab.study()).info.status)


def test_processes_of_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of another machine counts as one of a study until it was not seen for a minute."""
    study, now = optuna.create_study(), [1000.0]
    monkeypatch.setattr("src.utils.study.processes.time.time", lambda: now[0])
    there = "node7 12 1700000000"
    study.set_user_attr(PROCESSES, {there: now[0]})
    announce(study)
    assert study.user_attrs[PROCESSES] == {there: 1000.0, this_process(): 1000.0}
    now[0] += 59
    assert leave(study) == 1
    announce(study)
    now[0] += 2
    assert leave(study) == 0


def mounted(place: Path, kind: str) -> list[SimpleNamespace]:
    """A table of mounts; the last one of a folder counts."""
    table = [("/", "ext4"), (place, "autofs"), (place, kind), (place / "deeper", "tmpfs")]
    return [SimpleNamespace(mountpoint=str(path), fstype=name) for path, name in table]


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "lustre", "fuse.sshfs"])
def test_network_file_systems(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a network file system a SQLite store in WAL mode is refused with the command that changes it; a new
    one does without WAL, and says that it is for one machine at a time."""
    local, there = tmp_path / "there/deeper/a.db", tmp_path / "there/b c.db"
    local.parent.mkdir(parents=True)
    monkeypatch.setattr("psutil.disk_partitions", lambda all: mounted(tmp_path / "there", kind))
    create_database(local, make_table)
    assert (mode(local), caplog.messages) == ("wal", [])
    check_database(local)
    shutil.copy(local, there)
    for open_it in (open_storage, lambda uri: open_mlflow(monkeypatch, uri)):
        with pytest.raises(
            UserError, match=f"network file system .{kind}. in SQLite's WAL"
        ) as refused:
            open_it(f"sqlite:///{there}")
    command = shlex.split(
        str(refused.value).rpartition(": ")[2].replace("python", sys.executable, 1)
    )
    subprocess.run(command, check=True)
    check_database(there)

    create_database(tmp_path / "there/new.db", make_table)
    assert mode(tmp_path / "there/new.db") == "delete"
    (warning,) = caplog.messages
    assert "one machine at a time" in warning


def make_table(file: Path) -> None:
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE a (b)")


def mode(file: Path) -> str:
    with closing(sqlite3.connect(file)) as database:
        return str(database.execute("PRAGMA journal_mode").fetchone()[0])


def open_mlflow(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    open_store()


VERSION_1 = ("cgroup none rw,cpu,cpuacct", "4:cpu,cpuacct:/a/b\n0::/")
VERSION_2 = ("cgroup2 none rw", "0::/a/b")


@pytest.mark.parametrize(
    ("system", "files", "expected"),
    [
        (VERSION_2, {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, [1.5]),
        (VERSION_1, {"a/b/cpu.cfs_quota_us": "50000", "a/b/cpu.cfs_period_us": "100000"}, [0.5]),
        (VERSION_1, {"a/b/cpu.cfs_quota_us": "-1", "a/b/cpu.cfs_period_us": "100000"}, []),
    ],
    ids=["version 2, of a parent", "version 1", "no limit"],
)
def test_cpu_quotas(
    system: tuple[str, str], files: dict[str, str], expected: list[float], tmp_path: Path
) -> None:
    """CPU quotas of control groups count, also those of the groups above one's own."""
    (mount, group), groups = system, tmp_path / "groups"
    texts = {f"groups/{name}": text for name, text in files.items()}
    texts |= {"cgroup": group, "mountinfo": f"31 23 0:28 / {groups} rw - {mount}"}
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_quotas(tmp_path) == expected


def test_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process has the cores of its Slurm job and of its quota, rounded up, and one at least."""
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("src.utils.cores.cpu_quotas", list)
    monkeypatch.setattr("src.utils.cores.count_affine_cores", lambda: 64)
    assert count_cores() == 64
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "8")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")
    assert count_cores() == 64  # no job: someone has set them
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    assert count_cores() == 8  # a batch script
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    assert count_cores() == 2  # a task of srun
    monkeypatch.setattr("src.utils.cores.cpu_quotas", lambda: [8.0, 0.2])
    assert count_cores() == 1


HOLD = """
import threading
from src.utils.sweep.slots import Slots
with Slots(None, [{gpu!r}]).lease(threading.Event()):
    print("held", flush=True)
    threading.Event().wait()
"""


def test_gpus_of_two_searches(clone: Lab) -> None:
    """A GPU that a search on this machine has leased is free for no other one until it gives it back, or
    dies; Ctrl-C ends the waiting."""
    gpu, stopped = f"GPU-{uuid4()}", threading.Event()
    process = clone.start(sys.executable, "-c", HOLD.format(gpu=gpu))
    assert process.stdout and process.stdout.readline() == "held\n"
    slots = Slots(8, [gpu], jobs_per_gpu=2)
    assert slots.count == 2
    with slots.lease(stopped) as first:  # the second half of it
        assert first["CUDA_VISIBLE_DEVICES"] == gpu
        threading.Timer(0.5, stopped.set).start()
        with slots.lease(stopped) as second:
            assert "CUDA_VISIBLE_DEVICES" not in second
        process.kill()
        process.communicate()
        with slots.lease(threading.Event()) as second:
            assert second["CUDA_VISIBLE_DEVICES"] == gpu
    for file in LEASES.glob(f"{gpu}*"):
        file.unlink()


def test_names_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPUs are those that CUDA_VISIBLE_DEVICES names, by index, UUID or MIG id, or all; each is known by its
    UUID."""
    uuids = ["GPU-aa11", "GPU-bb22"]
    for name, answer in (
        ("nvmlInit", lambda: None),
        ("nvmlDeviceGetCount", lambda: 2),
        ("nvmlDeviceGetHandleByIndex", lambda index: index),
        ("nvmlDeviceGetUUID", uuids.__getitem__),
    ):
        monkeypatch.setattr(f"pynvml.{name}", answer)
    for visible, gpus in (
        ("1", ["GPU-bb22"]),
        ("GPU-bb,GPU-aa11", ["GPU-bb22", "GPU-aa11"]),
        ("MIG-5f, 0", ["MIG-5f", "GPU-aa11"]),
        ("7", [None]),
        ("0,-1,1", ["GPU-aa11"]),
        ("", []),
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert [physical_gpu(gpu) for gpu in visible_gpus()] == gpus
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_gpus() == ["0", "1"]
