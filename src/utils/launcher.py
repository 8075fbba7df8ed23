"""`hydra/launcher=fork`: every job in a fresh process, forked from a server that has torch imported.

A job that crashes, is killed or runs out of memory ends alone, and its process costs a fork instead
of seconds of imports. The server starts no thread and touches no GPU. Each job gets its share of the
cores, and with GPUs the lease of one.
"""

import logging
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from src.utils.trial import ENV as TRIAL

import cloudpickle
import pynvml
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

log = logging.getLogger(__name__)
FORK = multiprocessing.get_context("forkserver")
PRELOADED = ["__main__", "optuna", "mlflow.store.tracking.sqlalchemy_store", "matplotlib.figure"]
MOST_JOBS = 4  # at a time on a machine without GPUs, unless n_jobs says more
GRACE = 10.0  # seconds that a job has to save its state when it is told to stop


class JobFailed(Exception):
    """A job that ended without a result; the message is the reason."""


def start_server() -> None:
    """Start importing what jobs need, while this process goes on importing it for itself."""
    FORK.set_forkserver_preload(PRELOADED)
    forkserver.ensure_running()


class ForkLauncher(Launcher):
    """Thread-safe: the sweeper launches one job from each of its threads."""

    timeout: float | None = None  # seconds; a job that takes longer is killed

    def __init__(self, n_jobs: int | None, jobs_per_gpu: int) -> None:
        leases = visible_gpus() * jobs_per_gpu
        self.gpus: queue.SimpleQueue[str] = queue.SimpleQueue()
        for gpu in leases:
            self.gpus.put(gpu)
        self.has_gpus = bool(leases)
        self.n_jobs = n_jobs or len(leases) or min(cores(), MOST_JOBS)
        self.jobs: set[BaseProcess] = set()

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        setup_globals()
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        if len(job_overrides) == 1:
            return [self._launch(job_overrides[0], initial_job_idx)]
        with ThreadPoolExecutor(self.n_jobs) as pool:
            return list(pool.map(self._launch, job_overrides, numbers))

    def stop(self) -> None:
        """Tell all running jobs to save their state and end."""
        for job in list(self.jobs):
            job.terminate()

    def _launch(self, overrides: Sequence[str], number: int) -> JobReturn:
        receiver, sender = FORK.Pipe(duplex=False)
        with self._resources() as environment:
            job = Job(self.task, self.context, self.config, list(overrides), number, environment)
            sent = cloudpickle.dumps(job)  # Hydra's state has lambdas in it
            process = FORK.Process(target=_run, args=(sent, sender), name=f"job {number}")
            process.start()
            sender.close()
            self.jobs.add(process)
            try:
                result = self._wait(process, receiver)
            finally:
                self.jobs.discard(process)
        return result

    def _wait(self, process: BaseProcess, receiver: Connection) -> JobReturn:
        result = None
        if receiver.poll(self.timeout):
            with suppress(EOFError):  # it died without a word
                result = receiver.recv()
        else:
            process.terminate()
            process.join(GRACE)
            process.kill()
            result = _failure(f"timed out after {self.timeout:g} s")
        process.join()
        return result or _failure(_death(process.exitcode))

    @contextmanager
    def _resources(self) -> Iterator[dict[str, str]]:
        """The environment of one job: a GPU of its own if there are any, and its share of the cores."""
        threads = max(1, cores() // self.n_jobs)
        environment = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(threads)}
        if not self.has_gpus:
            yield environment
            return
        gpu = self.gpus.get()
        try:
            yield environment | {"CUDA_VISIBLE_DEVICES": gpu}
        finally:
            self.gpus.put(gpu)


@dataclass
class Job:
    """What a job's process needs to know; the process is forked, this is sent to it."""

    task: TaskFunction
    context: HydraContext
    config: DictConfig
    overrides: list[str]
    number: int
    environment: dict[str, str]

    def __post_init__(self) -> None:
        self.singletons = Singleton.get_state()

    def run(self, sender: Connection) -> None:
        """In the job's process: compose, execute, send the result."""
        self._prepare()
        config = self.context.config_loader.load_sweep_config(self.config, self.overrides)
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = str(self.number), self.number
        if any(TRIAL in override for override in self.overrides):
            _speak_to(Path(config.hydra.sweep.dir) / config.hydra.sweep.subdir / "output.txt")
        tasks = list(config.hydra.overrides.task)
        sys.argv = [sys.argv[0], *tasks]  # as if this job alone had been typed: DDP repeats it
        result = run_job(
            hydra_context=self.context,
            task_function=self.task,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        sender.send(result)

    def _prepare(self) -> None:
        import torch

        os.environ.update(self.environment)
        if "OMP_NUM_THREADS" in self.environment:
            torch.set_num_threads(int(self.environment["OMP_NUM_THREADS"]))
        setup_globals()
        Singleton.set_state(self.singletons)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the sweep to handle
        signal.signal(signal.SIGTERM, _interrupt)
        threading.Thread(target=_end_with_parent, daemon=True).start()


def _run(job: bytes, sender: Connection) -> None:
    cloudpickle.loads(job).run(sender)


def _speak_to(file: Path) -> None:
    """A trial's terminal is a file in its folder: the screen belongs to the sweep."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(handle, stream.fileno())


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    """A sweep that was killed takes its jobs along: they end as if interrupted."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(1)


def _failure(reason: str) -> JobReturn:
    result = JobReturn()
    result.status, result.return_value = JobStatus.FAILED, JobFailed(reason)
    return result


def _death(exitcode: int | None) -> str:
    if exitcode is None or exitcode >= 0:
        return f"its process ended with exit code {exitcode} and no result"
    name = signal.Signals(-exitcode).name
    hint = " (out of memory?)" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{hint}"


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, without touching them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [gpu for gpu in chosen.split(",") if gpu not in ("", "-1")]
    try:
        pynvml.nvmlInit()
        return [str(gpu) for gpu in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:  # no driver, no GPU
        return []
