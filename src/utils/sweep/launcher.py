"""`hydra/launcher=fork`: every job in a fresh process, forked from a server that has torch imported.

A job that crashes, is killed or runs out of memory ends alone, and its process costs a fork instead
of seconds of imports. The server starts no thread and touches no GPU. Each job gets its share of the
cores, and with GPUs the lease of one. What happens inside a job is in `src/utils/sweep/job.py`.
"""

import gc
import logging
import multiprocessing
import os
import pickle
import queue
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from src.utils.sweep.job import GRACE, Jobs, death, failure, run_job_sent

import cloudpickle
import pynvml
from hydra.core.utils import JobReturn, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

log = logging.getLogger(__name__)
FORK = multiprocessing.get_context("forkserver")
STOPPED = "stopped before it ended"
PROGRAM = "JIKKEN_PROGRAM"  # tells the server which file it serves
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


def start_server() -> None:
    """Start importing what jobs need, while this process goes on importing it for itself."""
    os.environ[PROGRAM] = str(sys.modules["__main__"].__file__)
    FORK.set_forkserver_preload(["src.utils.sweep.fork_server"])
    chosen = multiprocessing.get_start_method(allow_none=True)
    forkserver.ensure_running()
    multiprocessing.set_start_method(chosen, force=True)  # the program may still choose one


class ForkLauncher(Launcher):
    """Thread-safe: the sweeper launches one job from each of its threads."""

    timeout: float | None = None  # seconds; a job that takes longer is killed

    def __init__(self, n_jobs: int | None, jobs_per_gpu: int) -> None:
        self.slots = Slots(n_jobs, jobs_per_gpu)
        self.jobs: set[BaseProcess] = set()
        self.stopped = threading.Event()

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.common = (task_function, hydra_context, config)
        # Jobs know the program's file by this name; so do the exceptions that they send.
        sys.modules.setdefault("__mp_main__", sys.modules["__main__"])

    @cached_property
    def _sent(self) -> bytes:
        return bytes(cloudpickle.dumps(Jobs(*self.common)))  # Hydra's state has lambdas in it

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        setup_globals()
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        with ThreadPoolExecutor(min(self.slots.number, len(numbers) or 1)) as pool:
            try:
                return list(pool.map(self._launch, job_overrides, numbers))
            except KeyboardInterrupt:
                log.warning("stopping the running jobs")
                self.stop()
                raise

    def wait(self) -> None:
        """Until the server is ready: the first job's time is its own, too."""
        process = FORK.Process(target=gc.collect)  # anything
        process.start()
        process.join()

    def stop(self) -> None:
        """Tell all running jobs to save their state and end; those that don't are killed."""
        self.stopped.set()
        for job in list(self.jobs):
            _end(job)

    def _launch(self, overrides: Sequence[str], number: int) -> JobReturn:
        with self.slots.lease() as environment:
            result = self._run(overrides, number, environment)
        result.overrides = list(overrides) if result.overrides is None else result.overrides
        return result

    def _run(self, overrides: Sequence[str], number: int, environment: dict[str, str]) -> JobReturn:
        if self.stopped.is_set():
            return failure(STOPPED)
        receiver, sender = FORK.Pipe(duplex=False)
        job = (self._sent, list(overrides), number, environment, sender)
        process = FORK.Process(target=run_job_sent, args=job, name=f"job {number}")
        with receiver:
            process.start()
            sender.close()
            self.jobs.add(process)
            try:
                if self.stopped.is_set():  # meanwhile
                    _end(process)
                return self._wait(process, receiver)
            finally:
                self.jobs.discard(process)

    def _wait(self, process: BaseProcess, receiver: Connection) -> JobReturn:
        result = None
        if receiver.poll(self.timeout):
            with suppress(EOFError, ConnectionResetError):  # it died without a word
                result = pickle.loads(receiver.recv_bytes())
        else:
            _end(process)
            result = failure(f"timed out after {self.timeout:g} s")
        process.join()
        return result or death(process.exitcode)


def _end(job: BaseProcess) -> None:
    """Ask it to end, and kill it where it does not."""
    job.terminate()
    killer = threading.Timer(GRACE, job.kill)
    killer.daemon = True
    killer.start()


# MERGED sweep/machine: What this process may use of the machine, and how jobs share that.
