"""One job of a sweep, in the process that was forked for it: composes, runs, and sends the result.

The result of a failed job is one line: the reason.
"""

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

from src.utils.errors import UserError, format_error
from src.utils.paths import Experiment, display_path
from src.utils.process import TRIAL
from src.utils.runs.member import MEMBER
from src.utils.study.trial import PRUNED

import cloudpickle
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

STOP_TIMEOUT = 30.0  # seconds that a job has to save its state when it is stopped
START_METHOD: str | None = None  # of multiprocessing, where the program has chosen one


class JobFailed(UserError):
    """A job that ended without a result; the message is the reason."""


class FailedJob(JobReturn):
    """The result of a failed job: Hydra's own sweepers read its value and so raise one line."""

    @property  # type: ignore[misc]  # nothing sets it
    def return_value(self) -> Any:
        raise JobFailed(f"the job {' '.join(self.overrides or [])} failed: {self._return_value}")


class JobRunner:
    """Composes and runs any job of a sweep; the sweep sends it to the process of each job."""

    def __init__(self, task: TaskFunction, context: HydraContext, config: DictConfig) -> None:
        self.task, self.context, self.config = task, context, config
        self.singletons = Singleton.get_state()

    def run(self, overrides: list[str], number: int) -> JobReturn:
        """Compose the config of one job and run the program with it."""
        self._restore_singletons()
        config = self.context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = str(number), number
        is_one_of_many = any(TRIAL in one or MEMBER in one for one in overrides)
        if is_one_of_many:
            _redirect_output(Path(config.hydra.sweep.dir) / config.hydra.sweep.subdir)
        # The command line of this job alone: distributed training starts it again.
        sys.argv = [sys.argv[0], *config.hydra.overrides.task]
        result = run_job(
            hydra_context=self.context,
            task_function=self.task,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        return self._shorten_failure(convert_result(result), is_one_of_many)

    def _restore_singletons(self) -> None:
        """Set Hydra's global state; the plugins are those that the fork server has found."""
        setup_globals()
        instances = self.singletons["instances"] | {Plugins: Plugins.instance()}
        Singleton.set_state(self.singletons | {"instances": instances})

    def _shorten_failure(self, result: JobReturn, prints: bool) -> JobReturn:
        """Send one line, and print the traceback to the job's output. The exception of a program that is
        no experiment is sent whole, with its frames, as Hydra's results have them."""
        is_experiment = hasattr(self.task, "__self__")  # the experiment's Program
        if result.status is JobStatus.COMPLETED or not is_experiment:
            return result
        if prints:
            traceback.print_exception(result._return_value)
        return failed_result(failure_reason(result))


def run_job_process(
    runner: bytes,
    overrides: list[str],
    number: int,
    environment: dict[str, str],
    sender: Connection,
) -> None:
    """Run one job; the main function of its process.

    Args:
        runner: the pickled `JobRunner`.
        environment: variables to set, such as the GPU that the job may use.
        sender: where the pickled result goes.
    """
    signal.signal(signal.SIGTERM, _raise_interrupt)
    multiprocessing.set_start_method(START_METHOD, force=True)  # as in a program that runs alone
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    os.environ.update(environment)
    threads = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # "4,2": of nested levels
    if threads.isdigit():
        _set_num_threads(int(threads))
    try:
        result = cloudpickle.loads(runner).run(overrides, number)
        data = cloudpickle.dumps(result)  # by value: the pipe's own pickle would share tensors
    except KeyboardInterrupt:  # before its run: multiprocessing would print a traceback
        sys.exit(128 + signal.SIGTERM)
    except Exception as error:  # for example: its config could not be composed
        data = cloudpickle.dumps(failed_result(format_error(error)))
    sender.send_bytes(data)


def _set_num_threads(number: int) -> None:
    """Set it in the libraries that are loaded: they have read the variable before this process had it, and
    OpenMP's own setting is that of the thread from which this process was forked."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(number)
    else:  # NumPy's BLAS and OpenMP
        from threadpoolctl import threadpool_limits  # late: a training needs only torch's

        threadpool_limits(number)


def _redirect_output(folder: Path) -> None:
    """Write stdout and stderr of a job to output.txt: the terminal belongs to the sweep or group."""
    folder.mkdir(parents=True, exist_ok=True)
    file = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(file, stream.fileno())


def _raise_interrupt(*_: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # only once: the job's run is being closed
    raise KeyboardInterrupt


def _exit_with_parent() -> None:
    """End this job as if interrupted when its sweep is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_TIMEOUT)
    os._exit(1)


def failed_result(reason: str) -> JobReturn:
    """Return the result of a job that failed."""
    return FailedJob(status=JobStatus.FAILED, _return_value=JobFailed(reason))


def convert_result(result: JobReturn) -> JobReturn:
    """Convert numbers of NumPy and torch to Python's, and optuna.TrialPruned to the value `PRUNED`."""
    if result.status is JobStatus.COMPLETED:
        result.return_value = _to_python(result._return_value)
        return result
    from optuna import TrialPruned  # late: the fork server starts before this process has it

    if isinstance(result._return_value, TrialPruned):  # a callback of another library raised it
        result.status, result.return_value = JobStatus.COMPLETED, PRUNED
    return result


def _to_python(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_to_python(one) for one in value]
    return value.tolist() if hasattr(value, "tolist") else value


def failure_reason(result: JobReturn) -> str:
    """Return why a job failed, and at which line of the experiment: `ValueError: … (src/…/toy.py:33)`."""
    error = result._return_value
    frames = [(file, line) for file, _, line in result._remote_traceback or []]
    in_experiment = [(file, line) for file, line in frames if Experiment.of(file)]
    if isinstance(error, UserError) or not in_experiment:
        return format_error(error)
    file, line = in_experiment[-1]
    return f"{format_error(error)} ({display_path(Path(file).resolve())}:{line})"


def exit_reason(exitcode: int | None) -> str:
    """Return why a job failed whose process ended without sending a result."""
    if exitcode is None or exitcode >= 0:
        return f"its process ended with exit code {exitcode} and no result"
    name = signal.Signals(-exitcode).name
    hint = " (out of memory?)" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{hint}"
