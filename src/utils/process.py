"""Processes: which one of a distributed training this is, and whether a recorded one still runs.

A process is recorded as `host pid start-time`, which no later process can have. The processes of a
distributed training are started by Lightning, or all at once by srun or torchrun (`Launch`).
"""

import math
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

# Environment variables
RERUN = "JIKKEN_RERUN_OF"  # the run that this one repeats
BUILDING = "JIKKEN_BUILDING"  # the inputs that are being built, each for the one before
INPUTS = (
    "JIKKEN_INPUTS"  # the versions of data that a run is to read, as JSON: {experiment: digest}
)
TRIAL = "JIKKEN_TRIAL"  # the trial of a study that this process runs
SHARED_RUN = "JIKKEN_RUN"  # the run that the processes of one distributed training share
WORKER = "JIKKEN_WORKER"  # the job that this worker belongs to (`src/utils/workers`)
CORES = "JIKKEN_CORES"  # how many cores this worker was given, where nothing enforces it
BRANCH = "JIKKEN_BRANCH"  # the branch from which the worker's code was copied
LAUNCH = "JIKKEN_LAUNCH"  # the launch by srun or torchrun whose processes share a run
LEADER = "JIKKEN_LEADER"  # the process id of rank zero, which has started this process
# What a person sets; all other variables of this name say which run a process belongs to
SET_BY_PERSONS = ("JIKKEN_NOTIFY", "JIKKEN_VENV")
CLOCK_CHANGE = 2.0  # seconds by which the clock may be set while a process runs
START_AGAIN = 75  # exit status of a worker that has saved its work and wants to be started again
# Heartbeats, in seconds: of a run, of a trial, and of a process that works on a study
HEARTBEAT_INTERVAL = 15
HEARTBEAT_LIMIT = 60  # without one, what another machine runs counts as dead


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


@dataclass(frozen=True)
class Launch:
    """Processes that srun or torchrun has started together, and the place of this one among them."""

    by: str  # srun or torchrun
    id: str  # no other launch has it, and neither has this one when it is started again
    rank: int
    size: int
    local_rank: int  # on its machine
    local_size: int
    node: int  # number of its machine
    nodes: int

    @classmethod
    def current(cls) -> "Launch | None":
        """The launch of this process; None for one that was started alone.

        Slurm's variables alone do not tell: a batch script has most of them, and is one process.
        """
        if "TORCHELASTIC_RUN_ID" in os.environ:
            return cls._by_torchrun(os.environ)
        if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
            return cls._by_srun(os.environ)
        return None

    @classmethod
    def shared(cls) -> "Launch | None":
        """The launch, where its processes train together; None where each has a run of its own."""
        return cls.current() if LAUNCH in os.environ else None

    @classmethod
    def _by_srun(cls, given: Mapping[str, str]) -> "Launch":
        names = ("SLURM_CLUSTER_NAME", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
        numbers = ("PROCID", "STEP_NUM_TASKS", "LOCALID", "NODEID", "STEP_NUM_NODES")
        rank, size, local_rank, node, nodes = (int(given[f"SLURM_{name}"]) for name in numbers)
        text = " ".join(["slurm", *(given.get(name, "0") for name in names)])
        return cls("srun", text, rank, size, local_rank, _tasks_of_node(given, node), node, nodes)

    @classmethod
    def _by_torchrun(cls, given: Mapping[str, str]) -> "Launch":
        names = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")
        numbers = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")
        rank, size, local_rank, local_size, node = (int(given[name]) for name in numbers)
        text = " ".join(["torchrun", *(given.get(name, "0") for name in names)])
        if size == local_size:  # several nodes have several parents, and an id that was given
            text += f" {os.getppid()} {_start_time(os.getppid()):.0f}"
        nodes = int(given.get("GROUP_WORLD_SIZE", 1))
        return cls("torchrun", text, rank, size, local_rank, local_size, node, nodes)


def _tasks_of_node(given: Mapping[str, str], node: int) -> int:
    """The number of tasks on a node, from `2(x3),1`."""
    counts: list[int] = []
    for part in given["SLURM_STEP_TASKS_PER_NODE"].split(","):
        count, _, times = part.partition("(x")
        counts += [int(count)] * int(times.rstrip(")") or 1)
    return counts[node]


def this_process() -> str:
    """Host, id and start time of this process."""
    return f"{socket.gethostname()} {os.getpid()} {_start_time(os.getpid()):.0f}"


def is_of_this_host(process: str) -> bool:
    """Whether a recorded process is or was one of this machine."""
    return process.partition(" ")[0] == socket.gethostname()


def is_gone(process: str) -> bool:
    """Whether a recorded process ran on this machine and has ended. False for other machines."""
    if not is_of_this_host(process):
        return False
    _, pid, start_time = process.split()
    return abs(_start_time(int(pid)) - float(start_time)) > CLOCK_CHANGE


def _start_time(pid: int) -> float:
    """In seconds since 1970; infinite for a process that has ended."""
    try:
        process = psutil.Process(pid)
        has_ended = process.status() == psutil.STATUS_ZOMBIE  # whose parent has not looked yet
        return math.inf if has_ended else process.create_time()
    except psutil.NoSuchProcess:
        return math.inf


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
