"""What this process may use of the machine, and how jobs share that."""

import os
import queue
from collections.abc import Iterator
from contextlib import contextmanager

import pynvml

MOST_JOBS = 4  # at a time on a machine without GPUs, unless n_jobs says more


class Slots:
    """Places for jobs: each has its share of the cores, and with GPUs the lease of one."""

    def __init__(self, n_jobs: int | None, jobs_per_gpu: int) -> None:
        leases = visible_gpus() * jobs_per_gpu
        self.number = n_jobs or len(leases) or min(cores(), MOST_JOBS)
        self.gpus: queue.SimpleQueue[str] = queue.SimpleQueue()
        for gpu in leases:
            self.gpus.put(gpu)
        self.has_gpus = bool(leases)

    @contextmanager
    def lease(self) -> Iterator[dict[str, str]]:
        """The environment of one job, which waits until a GPU is free."""
        threads = max(1, cores() // self.number)
        environment = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(threads)}
        if not self.has_gpus:
            yield environment
            return
        gpu = self.gpus.get()
        try:
            yield environment | {"CUDA_VISIBLE_DEVICES": gpu}
        finally:
            self.gpus.put(gpu)


def cores() -> int:
    """How many cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """Which GPUs, without touching them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [gpu for gpu in chosen.split(",") if gpu not in ("", "-1")]
    try:
        pynvml.nvmlInit()
        return [str(gpu) for gpu in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:  # no driver, no GPU
        return []
