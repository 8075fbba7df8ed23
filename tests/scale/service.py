"""Services that tests start for themselves, on ports of their own, and stop."""

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest
from conftest import NOT_INHERITED, until

WAIT = 400  # seconds for a service to answer, on a machine that does much else
# Below the ports that the kernel gives to whoever asks for any; those stay free between a look and a start.
PORTS = range(20_000, 32_000)


@contextmanager
def service(
    command: Sequence[str | Path],
    folder: Path,
    environment: Mapping[str, str] | None = None,
    end: signal.Signals = signal.SIGTERM,
    **options: Any,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs in the background and ends with the block, or with the process that began it.

    Args:
        folder: where it runs, and writes `log`.
        end: the signal that ends it.
    """
    dropped = [one for one in NOT_INHERITED if one != "PYTHON"]  # they may have packages elsewhere
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(tuple(dropped))}
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", end.name, *command],
            cwd=folder,
            env=inherited | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            **options,
        )
    try:
        yield process
    finally:
        process.send_signal(end)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def wait_for(process: subprocess.Popen[bytes], answers: Callable[[], bool]) -> None:
    """Wait until a service answers; fails at once if it has ended."""

    def ready() -> bool:
        assert process.poll() is None, f"{process.args} ended with {process.returncode}"
        return answers()

    until(ready, WAIT)


def answers_http(address: str) -> bool:
    """Whether a web server answers, whatever it says."""
    try:
        with urlopen(address, timeout=5):
            return True
    except HTTPError:
        return True
    except (URLError, OSError):
        return False


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on."""
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().choice(PORTS)
        if port not in found and is_free(port):
            found.append(port)
    return found


def is_free(port: int) -> bool:
    """Whether nothing listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def need(present: object, what: str) -> None:
    """Skip without a program; continuous integration has installed it (.ci/run), and fails."""
    if not present:
        if os.environ.get("CI") == "true" and sys.platform == "linux":
            pytest.fail(f"{what} is not installed")
        pytest.skip(f"{what} is not installed")
