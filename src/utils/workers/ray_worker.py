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
        self, command: list[str], folder: str, environment: dict[str, str], log: str, grace: int
    ) -> None:
        """Start the worker.

        Args:
            command: what it runs.
            folder: where it runs.
            environment: variables in addition to those of the node.
            log: the file to which its output is added.
            grace: seconds in which it can save what it is running.
        """
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(OF_RAY)}
        with Path(log).open("ab") as output:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=inherited | environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self._grace = grace
        self._is_cancelled = False
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

    def _wait(self) -> None:
        status = self._process.wait()
        if status == START_AGAIN and not self._is_cancelled:
            os._exit(status)  # Ray starts the actor again, where and when there is a place for it
        ray.kill(ray.get_runtime_context().current_actor)  # for good
