"""One job of a sweep, in the process that was forked for it: composes, executes, sends the result."""

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from src.utils.errors import UserError, one_line
from src.utils.paths import Experiment, display_path
from src.utils.study.trial import ENV as TRIAL
from src.utils.study.trial import PRUNED

import cloudpickle
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

GRACE = 30.0  # seconds that a job has to save its state when it is told to stop
START_METHOD: str | None = None  # of multiprocessing, where the program has chosen one


class JobFailed(UserError):
    """A job that ended without a result; the message is the reason."""


class FailedJob(JobReturn):
    """What Hydra's own sweepers raise for a failed job: one line, that says which."""

    @property  # type: ignore[misc]  # nothing sets it
    def return_value(self) -> Any:
        raise JobFailed(f"the job {' '.join(self.overrides or [])} failed: {self._return_value}")


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
        is_trial = any(TRIAL in override for override in overrides)
        if is_trial:
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
        return self._told(plain(result), is_trial)

    def _told(self, result: JobReturn, is_trial: bool) -> JobReturn:
        """A failure, in one line; the traceback is in the job's files. Another program's is raised
        in the sweep as it was raised here: Hydra's results carry its frames."""
        is_ours = hasattr(self.task, "__self__")  # the experiment's Program
        if result.status is JobStatus.COMPLETED or not is_ours:
            return result
        if is_trial:
            traceback.print_exception(result._return_value)
        return failure(described(result))


def run_job_sent(
    jobs: bytes, overrides: list[str], number: int, environment: dict[str, str], sender: Connection
) -> None:
    """What a job's process does from its first line to its last."""
    signal.signal(signal.SIGTERM, _interrupt)
    multiprocessing.set_start_method(START_METHOD, force=True)  # not the sweep's: as if run alone
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.update(environment)
    if "OMP_NUM_THREADS" in environment and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(environment["OMP_NUM_THREADS"]))
    try:
        result = cloudpickle.loads(jobs).run(overrides, number)
        sent = cloudpickle.dumps(result)  # by value: the pipe's own pickle would share tensors
    except Exception as error:  # its settings could not be composed, for one
        sent = cloudpickle.dumps(failure(format_error(error)))
    sender.send_bytes(sent)


def _speak_to(file: Path) -> None:
    """A trial's terminal is a file in its folder: the screen belongs to the sweep."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(handle, stream.fileno())


def _interrupt(*_: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once: the job's run is being closed
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    """A sweep that was killed takes its jobs along: they end as if interrupted."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(1)


def failure(reason: str) -> JobReturn:
    """The result of a job that has none."""
    return FailedJob(status=JobStatus.FAILED, _return_value=JobFailed(reason))


def death(exitcode: int | None) -> JobReturn:
    """The result of a job whose process died without a word."""
    if exitcode is None or exitcode >= 0:
        return failure(f"its process ended with exit code {exitcode} and no result")
    name = signal.Signals(-exitcode).name
    hint = " (out of memory?)" if name == "SIGKILL" else ""
    return failure(f"its process was killed by {name}{hint}")


def plain(result: JobReturn) -> JobReturn:
    """With numbers of NumPy and torch as Python's; and `PRUNED` where the job raised
    `optuna.TrialPruned`, as a library's own callback does."""
    if result.status is JobStatus.COMPLETED:
        result.return_value = _plain(result._return_value)
        return result
    from optuna import TrialPruned  # late: the fork server starts before this process has it

    if isinstance(result._return_value, TrialPruned):
        result.status, result.return_value = JobStatus.COMPLETED, PRUNED
    return result


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.tolist() if hasattr(value, "tolist") else value


def described(result: JobReturn) -> str:
    """Why a job failed, and at which line of the experiment: `ValueError: … (src/…/toy.py:33)`"""
    error = result._return_value
    lines = [(file, line) for file, _, line in result._remote_traceback or []]
    own = [one for one in lines if Experiment.of(one[0])]
    if isinstance(error, UserError) or not own:
        return format_error(error)
    file, line = own[-1]
    return f"{format_error(error)} ({display_path(Path(file).resolve())}:{line})"


def format_error(error: Any) -> str:
    """An exception in one line."""
    text, kind = one_line(error), type(error).__name__
    if isinstance(error, UserError):
        return text
    return f"{kind}: {text}" if text else kind


# MERGED sweep/result: The result of one job of a sweep: numbers, or in one line why there are none.
