"""`hydra/launcher=fork`: runs every job in a fresh process, forked from a server that has the imports.

A job that crashes, is killed or runs out of memory ends alone, and its process costs a fork instead of
seconds of imports. Each job gets its share of the cores and, with GPUs, the lease of one
(`src/utils/sweep/slots.py`); with `trainer.accelerator=cpu` no GPU is leased.

The server (`src/utils/sweep/fork_server.py`) starts no thread and touches no GPU.
What happens inside a job is in `src/utils/sweep/job.py`.
"""

import gc
import logging
import multiprocessing
import os
import pickle
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from src.utils.sweep.job import (
    STOP_TIMEOUT,
    JobRunner,
    exit_reason,
    failed_result,
    run_job_process,
)
from src.utils.sweep.slots import Slots, visible_gpus

import cloudpickle
from hydra.core.utils import JobReturn, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

log = logging.getLogger(__name__)
FORK = multiprocessing.get_context("forkserver")
PROGRAM = "JIKKEN_PROGRAM"  # environment variable: the program whose jobs the fork server runs
STOPPED = "stopped before it ended"


def start_fork_server() -> None:
    """Start the fork server: it imports what jobs need while this process does its own imports."""
    os.environ[PROGRAM] = str(sys.modules["__main__"].__file__)
    FORK.set_forkserver_preload(["src.utils.sweep.fork_server"])
    start_method = multiprocessing.get_start_method(allow_none=True)
    forkserver.ensure_running()
    multiprocessing.set_start_method(start_method, force=True)  # the program may still choose one


class ForkLauncher(Launcher):
    """Hydra's launcher. It is thread-safe: the sweeper launches one job from each of its threads."""

    timeout: float | None = None  # seconds; a job that takes longer is killed

    def __init__(self, n_jobs: int | None, jobs_per_gpu: int) -> None:
        self.n_jobs, self.slots = n_jobs, Slots(n_jobs, visible_gpus(), jobs_per_gpu)
        self.context: Any = FORK
        self.processes: set[BaseProcess] = set()
        self.stopped = threading.Event()

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.runner_arguments = (task_function, hydra_context, config)
        # Jobs know the program's file by this name; so do the exceptions that they send.
        sys.modules.setdefault("__mp_main__", sys.modules["__main__"])

    def share_cores(self) -> None:
        """Lease no GPUs: the jobs train on the CPU, as many at a time as on a machine without a GPU."""
        self.slots = Slots(self.n_jobs, [])

    @cached_property
    def _runner(self) -> bytes:
        """By cloudpickle: Hydra's state has lambdas in it."""
        return bytes(cloudpickle.dumps(JobRunner(*self.runner_arguments)))

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        setup_globals()
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        workers = min(self.slots.count, len(numbers) or 1)
        # Twice: jobs may also be waited for when the pool is closed after an error of another job
        with (
            self._stop_on_interrupt(),
            ThreadPoolExecutor(workers) as pool,
            self._stop_on_interrupt(),
        ):
            return list(pool.map(self._launch, job_overrides, numbers))

    @contextmanager
    def _stop_on_interrupt(self) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            if not self.stopped.is_set():
                log.warning("stopping the running jobs")
                self.stop()
            raise

    def wait_for_server(self) -> None:
        """Wait until the server can fork: the duration of the first trial must not include its imports."""
        process = self.context.Process(target=gc.collect)  # any function will do
        process.start()
        process.join()

    def stop(self) -> None:
        """Stop all running jobs; those that do not save their state and end in time are killed."""
        self.stopped.set()
        for process in list(self.processes):
            _terminate(process)

    def _launch(self, overrides: Sequence[str], number: int) -> JobReturn:
        with self.slots.lease(self.stopped) as environment:
            result = self._run(overrides, number, environment)
        result.overrides = list(overrides) if result.overrides is None else result.overrides
        return result

    def _run(self, overrides: Sequence[str], number: int, environment: dict[str, str]) -> JobReturn:
        if self.stopped.is_set():
            return failed_result(STOPPED)
        receiver, sender = self.context.Pipe(duplex=False)
        arguments = (self._runner, list(overrides), number, environment, sender)
        process = self.context.Process(target=run_job_process, args=arguments, name=f"job {number}")
        with receiver:
            process.start()
            sender.close()
            self.processes.add(process)
            try:
                if self.stopped.is_set():  # while the process started
                    _terminate(process)
                return self._receive(process, receiver)
            finally:
                self.processes.discard(process)

    def _receive(self, process: BaseProcess, receiver: Connection) -> JobReturn:
        result = None
        if receiver.poll(self.timeout):
            with suppress(EOFError, ConnectionResetError):  # the process ended without a result
                result = pickle.loads(receiver.recv_bytes())
        else:
            _terminate(process)
            result = failed_result(f"timed out after {self.timeout:g} s")
        process.join()
        return result or failed_result(exit_reason(process.exitcode))


def _terminate(process: BaseProcess) -> None:
    """Ask a job to end, and kill it when it has not after `STOP_TIMEOUT`."""
    process.terminate()
    killer = threading.Timer(STOP_TIMEOUT, process.kill)
    killer.daemon = True
    killer.start()
