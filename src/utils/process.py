"""A process by a name that no later process can have: host, id and moment of birth."""

import os
import socket

import psutil

RERUN = "JIKKEN_RERUN_OF"  # the run that this one repeats
SHARED_RUN = "JIKKEN_RUN"  # the run that the processes of one distributed training share


def is_rank_zero() -> bool:
    """Whether this is the first, or only, process of a training: the one that records."""
    return SHARED_RUN not in os.environ


def this_process() -> str:
    """The name of this one."""
    return f"{socket.gethostname()} {os.getpid()} {_born(os.getpid())}"


def is_gone(name: str) -> bool:
    """Whether it ran on this machine and has ended; nothing is known of other machines."""
    host, pid, born = name.split()
    return host == socket.gethostname() and _born(int(pid)) != born


def _born(pid: int) -> str:
    try:
        return f"{psutil.Process(pid).create_time():.0f}"
    except psutil.NoSuchProcess:
        return "never"
