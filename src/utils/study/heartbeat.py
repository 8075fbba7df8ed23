"""Heartbeats of trials: by them a process knows which trials of other machines are lost.

A process that has slept (a laptop, SIGSTOP, a database that did not answer) finds all heartbeats old, its own
and those of others that have slept with it. It then waits for the next ones before it takes a trial for lost.
"""

import logging
import time

from src.utils.process import HEARTBEAT_INTERVAL

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage

log = logging.getLogger(__name__)
AWAKE = 2 * HEARTBEAT_INTERVAL  # seconds: who shows no sign of life for longer has slept


class HeartbeatStorage(RDBStorage):
    """Optuna's storage; a process that has just woken up takes no trial for lost."""

    _last_sign: float | None = None  # of life, of this process
    _awake_since = 0.0

    def record_heartbeat(self, trial_id: int) -> None:
        """Record the heartbeat of a trial; where the database does not answer, the next one may arrive."""
        self._show_sign_of_life()
        try:
            super().record_heartbeat(trial_id)
        except StorageInternalError as error:
            log.debug("heartbeat of trial %d: %s", trial_id, error)

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        self._show_sign_of_life()
        if time.time() - self._awake_since < AWAKE:
            return []
        return super()._get_stale_trial_ids(study_id)

    def _show_sign_of_life(self) -> None:
        """While trials run, it is a heartbeat; else the sweep looks for lost trials again and again."""
        now = time.time()
        if self._last_sign is not None and now - self._last_sign > AWAKE:
            self._awake_since = now
        self._last_sign = now
