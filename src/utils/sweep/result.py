"""The result of one job of a sweep: numbers, or in one line why there are none."""

import signal
from pathlib import Path
from typing import Any

from src.utils.errors import UserError, one_line
from src.utils.layout import Experiment, near
from src.utils.sweep.trial import PRUNED

from hydra.core.utils import JobReturn, JobStatus


class JobFailed(UserError):
    """A job that ended without a result; the message is the reason."""


class FailedJob(JobReturn):
    """What Hydra's own sweepers raise for a failed job: one line, that says which."""

    @property  # type: ignore[misc]  # nothing sets it
    def return_value(self) -> Any:
        raise JobFailed(f"the job {' '.join(self.overrides or [])} failed: {self._return_value}")


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
        return spelled(error)
    file, line = own[-1]
    return f"{spelled(error)} ({near(Path(file).resolve())}:{line})"


def spelled(error: Any) -> str:
    """An exception in one line."""
    text, kind = one_line(error), type(error).__name__
    if isinstance(error, UserError):
        return text
    return f"{kind}: {text}" if text else kind
