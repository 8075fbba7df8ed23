"""One job of a sweep, in the process that was forked for it: composes, executes, sends the result."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from src.utils.errors import one_line
from src.utils.sweep.trial import ENV as TRIAL

import cloudpickle
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

GRACE = 10.0  # seconds that a job has to save its state when it is told to stop


class JobFailed(Exception):
    """A job that ended without a result; the message is the reason."""


class Jobs:
    """What all jobs of a sweep have in common; made by the sweep, and sent to each job's process."""

    def __init__(self, task: TaskFunction, context: HydraContext, config: DictConfig) -> None:
        self.task, self.context, self.config = task, context, config
        self.singletons = Singleton.get_state()

    def run(self, overrides: list[str], number: int) -> JobReturn:
        """Compose the settings of one job and run the program with them."""
        setup_globals()
        instances = self.singletons["instances"] | {Plugins: Plugins.instance()}  # not sought again
        Singleton.set_state(self.singletons | {"instances": instances})
        config = self.context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = str(number), number
        if any(TRIAL in override for override in overrides):
            _speak_to(Path(config.hydra.sweep.dir) / config.hydra.sweep.subdir / "output.txt")
        tasks = list(config.hydra.overrides.task)
        sys.argv = [sys.argv[0], *tasks]  # as if this job alone had been typed: DDP repeats it
        return run_job(
            hydra_context=self.context,
            task_function=self.task,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )


def run_job_sent(
    jobs: bytes, overrides: list[str], number: int, environment: dict[str, str], sender: Connection
) -> None:
    """What a job's process does from its first line to its last."""
    signal.signal(signal.SIGTERM, _interrupt)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.update(environment)
    if "OMP_NUM_THREADS" in environment and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(environment["OMP_NUM_THREADS"]))
    try:
        result = cloudpickle.loads(jobs).run(overrides, number)
        if result.status is not JobStatus.COMPLETED:
            result.return_value = JobFailed(spelled(result._return_value))
    except Exception as error:  # its settings could not be composed, for one
        result = failure(spelled(error))
    sender.send(result)


def spelled(error: Any) -> str:
    """An exception in one line."""
    text = one_line(error)
    kind = type(error).__name__
    return f"{kind}: {text}" if text else kind


def failure(reason: str) -> JobReturn:
    """The result of a job that has none."""
    result = JobReturn()
    result.status, result.return_value = JobStatus.FAILED, JobFailed(reason)
    return result


def death(exitcode: int | None) -> JobReturn:
    """The result of a job whose process died without a word."""
    if exitcode is None or exitcode >= 0:
        return failure(f"its process ended with exit code {exitcode} and no result")
    name = signal.Signals(-exitcode).name
    hint = " (out of memory?)" if name == "SIGKILL" else ""
    return failure(f"its process was killed by {name}{hint}")


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
