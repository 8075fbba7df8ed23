"""A Ray cluster of two nodes on this host, for tests.

Each node has a host name and processes of its own, and dies all at once. Ray listens on all addresses: the
cluster, and all that a test starts while it runs, have a network with only the loopback. Both need root.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from ctypes import CDLL, get_errno
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from subprocess import run
from tempfile import TemporaryDirectory

from scale.service import free_ports, need, service, wait_for

import pytest

CLONE_NEWNET = 0x40000000  # of Linux
STARTED = "Ray runtime started"
ADDRESSES = {"head": "127.0.0.2", "second": "127.0.0.3"}
NODE = 'hostname "$0" && mount --bind "$1" /etc/hosts && exec "${@:2}"'
ATTEMPTS = 3  # parts of Ray wait 15 s for each other, too little on a busy machine
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "60"}


class RayCluster:
    """A running cluster. Each node has two cores."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"{ADDRESSES['head']}:{free_ports(1)[0]}"
        hosts = "".join(f"{address} {node}\n" for node, address in ADDRESSES.items())
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{hosts}")
        self.nodes: dict[str, ExitStack] = {}

    def start(self, node: str) -> None:
        """Start a node; returns when it is part of the cluster."""
        for attempt in range(ATTEMPTS):
            folder = self.folder / f"{node}{attempt}"
            folder.mkdir()
            with ExitStack() as stack, suppress(AssertionError):
                # The first process of a PID namespace takes all others with it.
                process = stack.enter_context(
                    service(self.command(node), folder, ENVIRONMENT, signal.SIGKILL)
                )
                wait_for(process, lambda log=folder / "log": STARTED in log.read_text())
                self.nodes[node] = stack.pop_all()
                return
        pytest.fail(f"Ray does not start: {(folder / 'log').read_text()}")

    def command(self, node: str) -> list[str]:
        """The command that starts a node, and runs as long as it."""
        own = ["--head", f"--port={self.address.partition(':')[2]}", "--include-dashboard=false"]
        join = [f"--address={self.address}"]
        return [
            *("unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *("bash", "-c", NODE, node, str(self.folder / "hosts")),
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block"),
            *(f"--node-ip-address={ADDRESSES[node]}", "--num-cpus=2", "--num-gpus=0"),
            *("--object-store-memory=100000000", "--disable-usage-stats"),
            *([*own, f"--temp-dir={self.folder}/tmp"] if node == "head" else join),
        ]

    def kill(self, node: str) -> None:
        """Kill a node with all that runs there, as by pulling its plug."""
        self.nodes.pop(node).close()


@contextmanager
def ray_cluster() -> Iterator[RayCluster]:
    """Start a cluster, which ends with the block. Call it within `loopback_only`."""
    need(find_spec("ray"), "Ray (pip install ray)")
    with TemporaryDirectory() as folder, ExitStack() as stack:  # short: it holds sockets
        cluster = RayCluster(Path(folder))
        stack.callback(lambda: [cluster.kill(node) for node in [*cluster.nodes]])
        for node in ADDRESSES:
            cluster.start(node)
        yield cluster


@contextmanager
def loopback_only() -> Iterator[None]:
    """Give this thread, and all that it starts, a network that has nothing but the loopback."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root on Linux can give a test a network of its own")
    need(which("ip"), "ip (iproute2)")
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    libc = CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        pytest.skip(f"this container allows no network of one's own: {os.strerror(get_errno())}")
    try:
        run(["ip", "link", "set", "lo", "up"], check=True)
        yield
    finally:
        libc.setns(before, CLONE_NEWNET)
        os.close(before)
