"""The processes of a distributed training end together, whichever ends first and however it does.

Lightning watches the processes that it has started. When one has ended it kills all, itself included, and the
run would never be closed. Without a watch, processes wait for a dead one for half an hour.

    a process is killed    rank zero closes the run as FAILED, says which process it was, and ends the others
    rank zero is killed    another process closes the run, and the others end
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from src.utils.errors import ProcessLost
from src.utils.process import LEADER, is_gone
from src.utils.run import Run
from src.utils.runs.join import wait_until_closed

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.distributed import _set_num_threads_if_needed
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
from pytorch_lightning.trainer.connectors.signal_connector import _SignalConnector

GRACE = 10.0  # seconds that a training has to end by itself when one of its processes is gone
POLL = 0.5
ASKED_TO_END = {128 + number for number in (signal.SIGINT, signal.SIGTERM)}


class RankLauncher(_SubprocessScriptLauncher):
    """Lightning's launcher, with another watch."""

    def __init__(self, given: _SubprocessScriptLauncher, run: Run) -> None:
        super().__init__(given.cluster_environment, given.num_processes, given.num_nodes)
        self.run = run

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
        try:
            return function(*args, **kwargs)
        except RuntimeError as error:
            if not _is_lost_connection(error):
                raise
            self._end(trainer.global_rank)

    def _end(self, rank: int) -> None:
        """End this process after another one has."""
        if rank == 0:
            raise ProcessLost(self._describe_lost()) from None
        _close_abandoned(self.run)
        sys.exit(1)

    def _describe_lost(self) -> str:
        """Which process has ended; of those that srun or torchrun has started it is not known."""
        for _ in range(4):  # the connection is closed before the process has ended
            for rank, process in enumerate(self.procs, 1):
                if process.poll():
                    return _describe(rank, process)
            if not self.procs:
                break
            time.sleep(POLL)
        return "another process of this training has ended"

    def _watch_children(self) -> None:
        while not any(process.poll() for process in self.procs):
            if all(process.poll() == 0 for process in self.procs):
                return
            time.sleep(POLL)
        rank, lost = next((r, p) for r, p in enumerate(self.procs, 1) if p.poll())
        if abs(lost.returncode) % 128 in (signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), signal.SIGTERM)  # all end as this one was asked to
        time.sleep(GRACE)
        if self.run.client.get_run(self.run.id).info.status == "RUNNING":
            self._force(_describe(rank, lost))

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
        _close_abandoned(self.run)
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


def _describe(rank: int, process: subprocess.Popen[Any]) -> str:
    code = process.returncode
    if code >= 0:
        return f"process {rank} of this training has ended with exit code {code}: its lines above say why"
    name = signal.Signals(-code).name
    hint = " (out of memory?)" if name == "SIGKILL" else ""
    return f"process {rank} of this training was killed by {name}{hint}"


def _close_abandoned(run: Run) -> None:
    """Close a run whose rank zero is gone; another process may be faster, or have resumed it."""
    stored = run.client.get_run(run.id)
    if not wait_until_closed(run, GRACE / 2) and is_gone(stored.data.tags["process"]):
        run.client.set_terminated(run.id, "FAILED")
