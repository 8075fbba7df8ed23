"""The slots in which jobs run at the same time: each has its share of the cores, and may lease a GPU.

`CUDA_VISIBLE_DEVICES` says which GPUs there are, as engines set it: indices, UUIDs, or ids of MIG slices. All
searches and groups that a person runs on one machine lease them from one another: a lease is the lock of a
file, by the UUID of the GPU, which a process loses when it dies.
"""

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

from src.utils.cores import count_cores

import pynvml
from filelock import FileLock, Timeout

log = logging.getLogger(__name__)
MAX_JOBS = 4  # at the same time on a machine without GPUs, unless n_jobs is set
LEASES = Path(
    f"/tmp/jikken-gpus-{os.getuid()}"
)  # not of TMPDIR, which each job of an engine may set
POLL = 0.2  # seconds between two looks for a free GPU
PATIENCE = 5.0  # seconds after which it is said why nothing begins
NO_GPU = ("", "-1", "NoDevFiles")  # CUDA takes what stands before them in the list


class Lease:
    """The right to use a GPU, of which a process has one or more for each."""

    def __init__(self, gpu: str, number: int) -> None:
        self.gpu = gpu
        self._mine = threading.Lock()
        self._file: FileLock | None = None
        name = physical_gpu(gpu)
        if name is not None:
            file = LEASES / f"{name.replace('/', '-')}.{number}"
            self._file = FileLock(file, blocking=False, thread_local=False, mode=0o600)

    def take(self) -> bool:
        """Take it, if it is free."""
        if not self._mine.acquire(blocking=False):
            return False
        try:
            if self._file is not None:
                LEASES.mkdir(mode=0o700, exist_ok=True)
                self._file.acquire()
        except Timeout:
            self._mine.release()
            return False
        return True

    def give_back(self) -> None:
        if self._file is not None:
            self._file.release()
        self._mine.release()


class Slots:
    """The slots of one search or group."""

    def __init__(self, n_jobs: int | None, gpus: list[str], jobs_per_gpu: int = 1) -> None:
        """Without `n_jobs` there are as many as fit the machine, and with GPUs never more than leases."""
        self.leases = [Lease(gpu, number) for number in range(jobs_per_gpu) for gpu in gpus]
        self.count = 0
        self.resize(n_jobs or len(gpus) * jobs_per_gpu or min(count_cores(), MAX_JOBS))

    def resize(self, n_jobs: int) -> None:
        """Set how many jobs are to run at a time."""
        self.count = min(n_jobs, len(self.leases) or n_jobs)

    @contextmanager
    def lease(self, stopped: threading.Event) -> Iterator[dict[str, str]]:
        """Wait until a GPU is free, and lease it; gives the environment variables of the job.

        Args:
            stopped: ends the waiting; there is no GPU then.
        """
        threads = max(1, count_cores() // self.count)
        chosen = os.environ.get("OMP_NUM_THREADS")
        environment = {} if chosen else {"OMP_NUM_THREADS": str(threads)}
        lease = self._wait(stopped) if self.leases else None
        if lease is None:
            yield environment
            return
        try:
            yield environment | {"CUDA_VISIBLE_DEVICES": lease.gpu}
        finally:
            lease.give_back()

    def _wait(self, stopped: threading.Event) -> Lease | None:
        start, is_told = time.monotonic(), False
        while True:
            for lease in self.leases:
                if lease.take():
                    return lease
            if stopped.wait(POLL):
                return None
            if not is_told and time.monotonic() - start > PATIENCE:
                log.info("waiting for a GPU: another search or group of yours has them")
                is_told = True


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, without touching them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [gpu.strip() for gpu in visible.split(",")]
        return list(takewhile(lambda gpu: gpu not in NO_GPU, names))
    try:
        return [str(index) for index in range(len(_uuids()))]
    except pynvml.NVMLError:  # no driver, no GPU
        return []


def physical_gpu(gpu: str) -> str | None:
    """The UUID of a GPU or MIG slice that is named as in `CUDA_VISIBLE_DEVICES`; None if nothing knows it."""
    if gpu.startswith("MIG-"):
        return gpu
    try:
        uuids = _uuids()
    except pynvml.NVMLError:
        uuids = []
    if gpu.isdigit():
        return uuids[int(gpu)] if int(gpu) < len(uuids) else None
    return next((uuid for uuid in uuids if uuid.startswith(gpu)), gpu)  # it may be abbreviated


def _uuids() -> list[str]:
    """In the order of PCI, as CUDA has GPUs of one kind."""
    pynvml.nvmlInit()
    handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
    return [str(pynvml.nvmlDeviceGetUUID(handle)) for handle in handles]
