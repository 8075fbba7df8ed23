"""The heartbeat of a run: a tag with the time, which a thread sets again and again while the run goes on.

A process that was killed can't say so. On its own machine it is found gone; for any other machine the
heartbeat of its run has stopped. A clock that is a minute off says the wrong thing.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from src.utils.process import (
    HEARTBEAT_INTERVAL,
    HEARTBEAT_LIMIT,
    is_gone,
    is_of_this_host,
    this_process,
)
from src.utils.store.record import HEARTBEAT, PROCESS

if TYPE_CHECKING:  # what only reads tags needs no MLflow
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)
LONGEST_BEAT = 5.0  # seconds for which a fork waits
_beating = threading.Lock()  # held by the thread that writes to the store
_held = False  # by a fork


class Heartbeat:
    """Shows in the store that a run goes on."""

    def __init__(self, client: "MlflowClient", run_id: str) -> None:
        self.client, self.run_id = client, run_id
        self._stopping = threading.Event()

    def start(self) -> None:
        """Begin, in a thread that does not keep the process from ending."""
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def stop(self) -> None:
        """End it; the run has its final status."""
        self._stopping.set()

    def is_lost(self) -> bool:
        """Whether another process goes on with the run: this one had stopped for so long that it seemed dead.

        The run of a study has several processes.
        """
        tags = self.client.get_run(self.run_id).data.tags
        is_lost = not is_run_of_study(tags) and tags.get(PROCESS) != this_process()
        if is_lost:
            log.warning("another process goes on with run %s: this one leaves it", self.run_id[:8])
        return is_lost

    def _beat(self) -> None:
        from src.utils.store.mlflow import close_connections  # late: it imports MLflow

        while not self._stopping.wait(HEARTBEAT_INTERVAL):
            try:
                with _beating:
                    is_lost = self.is_lost()
                    if not is_lost:
                        self.client.set_tag(self.run_id, HEARTBEAT, _now())
                    close_connections(self.client)  # of a database: a fork must not inherit them
            except Exception as error:  # of whatever store: the next beat may arrive
                log.debug("heartbeat of run %s: %s", self.run_id, error)
                continue
            if is_lost:
                os.kill(os.getpid(), signal.SIGTERM)
                return


def signs_of_life() -> dict[str, str]:
    """The tags of a run that begins or goes on: its process, and the time."""
    return {PROCESS: this_process(), HEARTBEAT: _now()}


def take_over(client: "MlflowClient", run_id: str) -> None:
    """Set a run that has ended to RUNNING, in this process."""
    from src.utils.store.mlflow import reopen_run  # late: it imports MLflow

    for name, value in signs_of_life().items():
        client.set_tag(run_id, name, value)
    reopen_run(client, run_id)


def is_running(status: str, tags: Mapping[str, str]) -> bool:
    """Whether a run with this status and these tags is running: by its process, or by its heartbeat.

    A run of an earlier version has no heartbeat: on another machine it may be running.
    """
    if status != "RUNNING":
        return False
    process = tags.get(PROCESS, "")
    if is_of_this_host(process) and not (is_run_of_study(tags) and is_gone(process)):
        return not is_gone(process)
    return HEARTBEAT not in tags or time.time() - float(tags[HEARTBEAT]) < HEARTBEAT_LIMIT


def is_run_of_study(tags: Mapping[str, str]) -> bool:
    """Whether it is the run of a study, which several processes may have."""
    return "optuna.study" in tags and "optuna.trial" not in tags


def _now() -> str:
    return f"{time.time():.0f}"


def _before_fork() -> None:
    """Wait for the end of a beat: the process would inherit the locks and connections of its store."""
    global _held  # noqa: PLW0603  it is of the process
    _held = _beating.acquire(timeout=LONGEST_BEAT)


def _after_fork() -> None:
    if _held:
        _beating.release()


def _in_child() -> None:
    global _beating  # noqa: PLW0603  the thread that may hold the old one is not in this process
    _beating = threading.Lock()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
