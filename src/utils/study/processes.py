"""The processes that work on one study, on whatever machines. The last one closes the study's run.

A user attribute of the study says when each of them was last seen. One of this machine is found gone at once;
one of another machine, killed, counts for another minute. Whoever calls this holds the study's lock.
"""

import time

from src.utils.process import HEARTBEAT_LIMIT, is_gone, is_of_this_host, this_process

import optuna

PROCESSES = "processes"  # user attribute: {process: seconds since 1970}


def announce(study: optuna.Study) -> None:
    """Show that this process works on the study, or still does."""
    study.set_user_attr(PROCESSES, _others(study) | {this_process(): time.time()})


def leave(study: optuna.Study) -> int:
    """Take this process off the study; returns how many others go on with it."""
    others = _others(study)
    study.set_user_attr(PROCESSES, others)
    return len(others)


def _others(study: optuna.Study) -> dict[str, float]:
    stored: dict[str, float] = study.user_attrs.get(PROCESSES, {})
    return {
        process: seen
        for process, seen in stored.items()
        if process != this_process() and _is_there(process, seen)
    }


def _is_there(process: str, seen: float) -> bool:
    if is_of_this_host(process):
        return not is_gone(process)
    return time.time() - seen < HEARTBEAT_LIMIT
