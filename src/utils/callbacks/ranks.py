"""The processes of a distributed training end together, whichever ends first and however it does.

Lightning watches the processes that it has started. When one has ended it kills all, itself included, and the
run would never be closed. Without a watch, processes wait for a dead one for half an hour.

    a process is killed    rank zero closes the run as FAILED, says which process it was, and ends the others
    rank zero is killed    another process closes the run, and the others end
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from src.utils.errors import ProcessLost
from src.utils.process import LEADER, exit_code
from src.utils.run import Run
from src.utils.runs.join import close_abandoned

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.distributed import _set_num_threads_if_needed
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
from pytorch_lightning.trainer.connectors.signal_connector import _SignalConnector

GRACE = 10.0  # seconds that a training has to end by itself when one of its processes is gone
POLL = 0.5


class RankLauncher(_SubprocessScriptLauncher):
    """Lightning's launcher, with another watch."""

    def __init__(self, given: _SubprocessScriptLauncher, run: Run) -> None:
        super().__init__(given.cluster_environment, given.num_processes, given.num_nodes)
        self.run = run
        self.began: float | None = None  # when Lightning was called; None between its functions

    def launch(
        self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any
    ) -> Any:
        """Start the other processes, unless they are there, and call a function in each.

        Raises:
            ProcessLost: another process has ended, so that this one can't go on; in rank zero.
            SystemExit: the same, in any other.
        """
        environment = self.cluster_environment
        environment.validate_settings(self.num_processes, self.num_nodes)
        if not environment.creates_processes_externally:
            os.environ[LEADER] = str(os.getpid())
            self._call_children_scripts()
            _in_background(self._watch_children)
        elif LEADER in os.environ and os.environ[LEADER] != str(os.getpid()):
            _in_background(self._watch_leader)
        _set_num_threads_if_needed(num_processes=self.num_processes)
        self.began = time.monotonic()
        try:
            return function(*args, **kwargs)
        except RuntimeError as error:
            if not _is_lost_connection(error):
                raise
            self._end(trainer.global_rank)
        finally:
            self.began = None

    def _end(self, rank: int) -> None:
        """End this process after another one has."""
        if rank > 0:
            close_abandoned(self.run)
            sys.exit(1)
        end = time.monotonic() + GRACE  # a connection is closed before its process has ended
        while self.procs and not self._find_lost() and time.monotonic() < end:
            time.sleep(POLL)
        lost = self._find_lost()
        if lost and lost[1] in (-signal.SIGTERM, exit_code(signal.SIGTERM)):
            self.run.terminate()
        why = _describe(*lost) if lost else "another process of this training has ended"
        raise ProcessLost(f"{why}; resume_run={self.run.id[:8]} resumes it") from None

    def _find_lost(self) -> tuple[int, int] | None:
        """The rank and the exit code of a process that has failed."""
        codes = ((rank, process.poll()) for rank, process in enumerate(self.procs, 1))
        return next(((rank, code) for rank, code in codes if code), None)

    def _watch_children(self) -> None:
        """Where the connection does not tell that a process is gone, as with GPUs, end after a while."""
        while (lost := self._find_lost()) is None:
            if all(process.poll() == 0 for process in self.procs):
                return
            time.sleep(POLL)
        found = time.monotonic()
        while (began := self.began) is None or time.monotonic() - max(found, began) < 2 * GRACE:
            time.sleep(POLL)
        self._force(_describe(*lost))

    def _force(self, why: str) -> None:
        """Close the run from this thread: the main thread waits for a process that is gone."""
        os.write(2, f"error: {why}\n".encode())
        self.run.close("FAILED")
        self.kill(signal.SIGKILL)
        os._exit(1)

    def _watch_leader(self) -> None:
        while os.getppid() == int(os.environ[LEADER]):
            time.sleep(POLL)
        time.sleep(GRACE)
        close_abandoned(self.run)
        os._exit(1)


class OwnSignals(_SignalConnector):
    """Lightning's signal handlers, less those of a distributed training, which wait for the other processes
    inside the handler. `Interruption` is in their place."""

    def register_signal_handlers(self) -> None:
        if self.trainer.world_size == 1:
            super().register_signal_handlers()


def end_together(trainer: pl.Trainer, run: Run) -> None:
    """Let the processes of a trainer end together."""
    launcher = trainer.strategy.launcher
    trainer._signal_connector = OwnSignals(trainer)
    if isinstance(launcher, _SubprocessScriptLauncher):
        trainer.strategy._launcher = RankLauncher(launcher, run)


def _in_background(function: Callable[[], None]) -> None:
    threading.Thread(target=function, daemon=True, name=function.__name__).start()


def _is_lost_connection(error: RuntimeError) -> bool:
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)


def _describe(rank: int, code: int) -> str:
    if code >= 0:
        return f"process {rank} of this training has ended with exit code {code}: its lines above say why"
    name = signal.Signals(-code).name
    hint = " (out of memory?)" if name == "SIGKILL" else ""
    return f"process {rank} of this training was killed by {name}{hint}"
