"""Processes: which one of a distributed training this is, its cores, and whether a recorded one still runs.

A process is recorded as `host pid start-time`, which no later process can have.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

# Environment variables
RERUN = "JIKKEN_RERUN_OF"  # the run that this one repeats
BUILDING = "JIKKEN_BUILDING"  # the inputs that are being built, each for the one before
INPUTS = (
    "JIKKEN_INPUTS"  # the versions of data that a run is to read, as JSON: {experiment: digest}
)
SHARED_RUN = "JIKKEN_RUN"  # the run that the processes of one distributed training share
WORKER = "JIKKEN_WORKER"  # the job that this worker belongs to (`src/utils/workers`)
# What a person sets; all other variables of this name say which run a process belongs to
SET_BY_PERSONS = ("JIKKEN_NOTIFY", "JIKKEN_VENV")
START_AGAIN = 75  # exit status of a worker that has saved its work and wants to be started again


def is_of_one_run(variable: str) -> bool:
    """Whether an environment variable belongs to one run, and not to another that is started beside it."""
    return variable.startswith("JIKKEN_") and not variable.startswith(SET_BY_PERSONS)


def is_rank_zero() -> bool:
    """Whether this is the first or only process of a training. Only this one records."""
    return SHARED_RUN not in os.environ


def exit_code(number: int) -> int:
    """The exit status of a process that a signal has ended. A worker asks to be started again."""
    if number == signal.SIGTERM and WORKER in os.environ:
        return START_AGAIN
    return 128 + number


def end_on_sigterm(*_: object) -> None:
    """Handle SIGTERM where no run, training or sweep does."""
    sys.exit(exit_code(signal.SIGTERM))


UNHANDLED = (signal.SIG_DFL, end_on_sigterm)  # the handler of SIGTERM is one of these


def this_process() -> str:
    """Host, id and start time of this process."""
    return f"{socket.gethostname()} {os.getpid()} {_start_time(os.getpid())}"


def is_gone(process: str) -> bool:
    """Whether a recorded process ran on this machine and has ended. False for other machines."""
    host, pid, start_time = process.split()
    return host == socket.gethostname() and _start_time(int(pid)) != start_time


def _start_time(pid: int) -> str:
    try:
        return f"{psutil.Process(pid).create_time():.0f}"
    except psutil.NoSuchProcess:
        return "never"


def count_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def deferred_interrupts() -> Iterator[dict[signal.Signals, Any]]:
    """Defer Ctrl-C and SIGTERM until the end of the block; only the main thread can, others do nothing.

    Yields:
        The handlers that are set then, by signal; the block may put others in their place.
    """
    received: list[int] = []
    handlers: dict[signal.Signals, Any] = {
        one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)
    }
    if threading.current_thread() is not threading.main_thread():
        yield handlers
        return
    for one in handlers:
        signal.signal(one, lambda number, _: received.append(number))
    try:
        yield handlers
    finally:
        for one, handler in handlers.items():
            signal.signal(one, handler)
        for number in dict.fromkeys(received):  # the first may be one that is ignored
            signal.raise_signal(number)


@contextmanager
def passed_on(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Pass SIGTERM on to another process, for which the block waits; where a handler is set, do nothing.

    Yields:
        The signals that were passed on.
    """
    received: list[int] = []

    def pass_on(number: int, _: Any) -> None:
        received.append(number)
        process.send_signal(number)

    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    if not is_main or handler not in UNHANDLED:
        yield received
        return
    signal.signal(signal.SIGTERM, pass_on)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, handler)
