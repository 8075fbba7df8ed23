"""What runs on a node of a Ray cluster: an actor that starts one worker and waits for it.

Ray carries this module there as it is: it imports nothing but the standard library and Ray.
"""

import os
import subprocess
import threading
from pathlib import Path

import ray

START_AGAIN = 75  # exit status of a worker that has saved all and wants to go on
# What Ray sets for processes of its own. A worker finds out by itself how many threads it may use.
OF_RAY = ("RAY_", "OMP_NUM_THREADS", "PYTHON")


class RayWorker:
    """An actor that lives as long as its worker. When its node is lost, Ray starts both on another one."""

    def __init__(
        self,
        command: list[str],
        folder: str,
        environment: dict[str, str],
        log: str,
        grace: int,
        forgiven: int,
    ) -> None:
        """Start the worker.

        Args:
            command: what it runs.
            folder: where it runs.
            environment: variables in addition to those of the node.
            log: the file to which its output is added.
            grace: seconds in which it can save what it is running.
            forgiven: how often it is started again after it was killed, as for lack of memory.
        """
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(OF_RAY)}
        self._command, self._folder, self._log = command, folder, log
        self._environment = inherited | environment
        self._grace, self._forgiven = grace, forgiven
        self._is_cancelled = False
        self._process = self._start()
        threading.Thread(target=self._wait, daemon=True).start()

    def ready(self) -> None:
        """Return as soon as the worker has been started."""

    def cancel(self) -> None:
        """Have the worker save what it is running and end; it is not started again."""
        self._is_cancelled = True
        self._process.terminate()
        kill = threading.Timer(self._grace, self._process.kill)
        kill.daemon = True
        kill.start()

    def _start(self) -> subprocess.Popen[bytes]:
        with Path(self._log).open("ab") as output:
            return subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def _wait(self) -> None:
        status = self._process.wait()
        while _was_killed(status) and self._forgiven > 0 and not self._is_cancelled:
            self._forgiven -= 1
            self._process = self._start()
            if self._is_cancelled:  # in this very moment
                self._process.terminate()
            status = self._process.wait()
        if status == START_AGAIN and not self._is_cancelled:
            os._exit(status)  # Ray starts the actor again, where and when there is a place for it
        ray.kill(ray.get_runtime_context().current_actor)  # for good


def _was_killed(status: int) -> bool:
    """By a signal; the command `timeout` says so by a number above 128."""
    return status < 0 or status > 128
