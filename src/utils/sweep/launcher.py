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
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from src.utils.sweep.job import GRACE, Jobs, run_job_sent
from src.utils.sweep.machine import Slots
from src.utils.sweep.result import death, failure

import cloudpickle
from hydra.core.utils import JobReturn, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

log = logging.getLogger(__name__)
FORK = multiprocessing.get_context("forkserver")
STOPPED = "stopped before it ended"
PROGRAM = "JIKKEN_PROGRAM"  # tells the server which file it serves


def start_server() -> None:
    """Start importing what jobs need, while this process goes on importing it for itself."""
    os.environ[PROGRAM] = str(sys.modules["__main__"].__file__)
    FORK.set_forkserver_preload(["src.utils.sweep.preloaded"])
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
