"""What has become of a run or sweep, and the message that says it (`src/utils/notification.py`).

It is sent once, when the program of a run, a group or a sweep ends; members and trials send nothing. A
command that was refused has begun nothing, and sends nothing.
"""

import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

from src.utils.errors import format_error
from src.utils.notification import Message, notifier, send
from src.utils.paths import Experiment
from src.utils.process import START_AGAIN
from src.utils.store.objective import SPREAD, Objective, result_metrics
from src.utils.store.reader import RunReader, open_reader
from src.utils.store.record import RunRecord
from src.utils.store.reference import find_record, list_trials
from src.utils.terminal import (
    format_duration,
    format_metric,
    format_settings,
    format_spread,
    format_value,
    lab_command,
)

KINDS = {"finished": "SUCCESS", "stopped": "WARNING", "failed": "FAILURE"}
SIGNALS = {  # by exit code
    128 + signal.SIGINT: "Ctrl-C",
    128 + signal.SIGTERM: "SIGTERM",
    START_AGAIN: "SIGTERM",
}
MAX_METRICS = 6
MAX_TEXT = 500  # characters of a note or reason
TRIAL_STATES = {"finished": "complete", "killed": "stopped"}  # in the words of Optuna


@contextmanager
def notified(experiment: Experiment, is_sweep: bool) -> Iterator[None]:
    """Send a message when the block ends, however it does, if it has begun anything."""
    began, outcome = time.monotonic(), Outcome()
    try:
        yield
    except BaseException as error:
        outcome = Outcome.of(error)
        raise
    finally:
        if notifier.targets and notifier.has_begun:
            _tell(outcome, experiment, is_sweep, time.monotonic() - began)


@dataclass(frozen=True)
class Outcome:
    """How a command has ended."""

    name: str = "finished"  # or failed, or stopped
    reason: str = ""

    @classmethod
    def of(cls, error: BaseException) -> "Outcome":
        """The outcome of a command that this exception ends."""
        code = error.code if isinstance(error, SystemExit) else None
        code = 128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else code
        if isinstance(code, int) and code in SIGNALS:
            return cls("stopped", SIGNALS[code])
        # The error was printed, and SystemExit raised in its place
        cause = error.__context__ if isinstance(error, SystemExit) else None
        return cls("failed", format_error(cause or error)[:MAX_TEXT])

    def __str__(self) -> str:
        return f"{self.name} by {self.reason}" if self.name == "stopped" else self.name


def _tell(outcome: Outcome, experiment: Experiment, is_sweep: bool, seconds: float) -> None:
    """Send the message. Whatever goes wrong here, the command ends as it would have without it."""
    try:
        send(_message(outcome, experiment, is_sweep, seconds), notifier.targets)
    except (Exception, KeyboardInterrupt) as error:
        print(f"warning: nobody was told: {format_error(error)}", file=sys.stderr)


def _message(outcome: Outcome, experiment: Experiment, is_sweep: bool, seconds: float) -> Message:
    reader, run = _read_run(is_sweep)
    objective = Objective.of(run) if run else None
    value = run.metrics.get(objective.metric) if run and objective else None
    about = outcome.reason if outcome.name == "failed" else ""
    if outcome.name == "finished" and run and objective and value is not None:
        about = f"{objective.metric} {format_result(run, objective.metric)}"
    title = f"{'sweep of ' * is_sweep}{experiment} {outcome}" + (f": {about}" if about else "")
    name = f"{run.name} ({run.short}) on " if run else ""
    lines = [f"{name}{socket.gethostname()}, {format_duration(timedelta(seconds=seconds))}"]
    if run and reader:
        lines += filter(None, [run.note[:MAX_TEXT], *_results(reader, run)])
    lines.append(f"{lab_command()} {f'show {run.short}' if run else 'runs'}")
    values = {
        "OUTCOME": outcome.name,
        "REASON": outcome.reason,
        "EXPERIMENT": str(experiment),
        "RUN_ID": run.id if run else "",
        "RUN_NAME": run.name if run else "",
        "OBJECTIVE": objective.metric if objective else "",
        "VALUE": "" if value is None else str(value),
        "SECONDS": f"{seconds:.0f}",
        "NOTE": run.note[:MAX_TEXT] if run else "",
    }
    names = {f"JIKKEN_{name}": text for name, text in values.items()}
    return Message(KINDS[outcome.name], title, "\n".join(lines), names)


def _read_run(is_sweep: bool) -> tuple[RunReader | None, RunRecord | None]:
    """The first run that was opened; None where there is none, or the store can't be reached any more."""
    with suppress(Exception):
        reader = open_reader()
        run = find_record(notifier.runs[0], reader=reader)
        if run.is_study or not is_sweep:  # in a sweep of Hydra's own sweepers it is one run of many
            return reader, run
    return None, None


def _results(reader: RunReader, run: RunRecord) -> Iterator[str]:
    """The main metrics of a run; of a study the states of its trials, and the best of them."""
    if not run.is_study:
        names = result_metrics(run.metrics)[:MAX_METRICS]
        yield "  ".join(f"{name} {format_result(run, name)}" for name in names)
        return
    states = Counter(trial.state for trial in list_trials(reader, run))
    yield ", ".join(f"{count} {TRIAL_STATES.get(name, name)}" for name, count in states.items())
    params = run.best
    best, value = params.pop("run_id", "")[:8], params.pop("value", "").strip("[]")
    if best:
        yield f"best {best}: {format_value(value)} with {format_settings(params)}"


def format_result(run: RunRecord, name: str) -> str:
    """A metric of a run; of a group with the standard deviation and the number of members."""
    spread = run.metrics.get(f"{name}{SPREAD}")
    if run.is_group and spread is not None:
        return format_spread(run.metrics[name], spread, run.size)
    return format_metric(run.metrics[name])
