"""How many cores this process may use: a machine may have many more than its container or job was given."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from src.utils.process import CORES

PROC = Path("/proc/self")


def count_cores() -> int:
    """How many cores this process may use.

    Its affinity counts, the CPU quotas of its control groups (containers, systemd, Kubernetes), rounded up,
    and in a job of Slurm or a worker of Ray what it was given, also where nothing enforces it.
    """
    quotas = [math.ceil(quota) for quota in cpu_quotas()]
    return max(1, min([count_affine_cores(), *quotas, *_cores_of_slurm(), *_cores_of_worker()]))


def count_affine_cores() -> int:
    """On how many cores this process may run. Libraries take this for their number of threads."""
    has_affinity = hasattr(os, "sched_getaffinity")  # macOS has not
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1


def cpu_quotas(proc: Path = PROC) -> list[float]:
    """The cores that the control groups of this process may keep busy, and those above them.

    Args:
        proc: the folder of the process in /proc.
    """
    quotas: list[float] = []
    with suppress(OSError):  # no Linux
        for folder in _groups(proc):
            quotas += _quota(folder)
    return quotas


def _cores_of_slurm() -> list[int]:
    """Of a task of srun its own, of a batch script those of the job on this machine."""
    if "SLURM_JOB_ID" not in os.environ:
        return []
    names = ["SLURM_CPUS_PER_TASK"] * ("SLURM_STEP_ID" in os.environ) + ["SLURM_CPUS_ON_NODE"]
    numbers = [os.environ.get(name, "") for name in names]
    return [int(number) for number in numbers if number.isdigit()][:1]


def _cores_of_worker() -> list[int]:
    return [int(os.environ[CORES])] if CORES in os.environ else []


def _groups(proc: Path) -> Iterator[Path]:
    """The folders of the control groups that share out CPU time, each before the one above it."""
    own = [line.split(":", 2)[1:] for line in (proc / "cgroup").read_text().splitlines()]
    for line in (proc / "mountinfo").read_text().splitlines():
        mount, _, system = line.partition(" - ")
        root, place = mount.split()[3:5]
        kind, *options = system.split()
        controller = {"cgroup2": "", "cgroup": "cpu"}.get(
            kind
        )  # version 2 has one hierarchy for all
        if controller is None or controller not in ["", *options[-1].split(",")]:
            continue
        for path in [path for names, path in own if controller in names.split(",")]:
            inside = Path(place) / os.path.relpath(path, root)
            yield from [one for one in (inside, *inside.parents) if one.is_relative_to(place)]


def _quota(group: Path) -> list[float]:
    """Microseconds of CPU time in each period; without a limit `max`, or -1 in version 1."""
    for names in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
        with suppress(OSError):  # it has no such limit, or is outside of this container
            quota, period = " ".join((group / name).read_text() for name in names).split()
            return [int(quota) / int(period)] if quota.isdigit() else []
    return []
