"""A Slurm cluster on this host, for tests.

Each node is a set of namespaces: it has a host name, processes and mounts of its own, and dies all at once.
That needs root. Slurm is Debian's packages slurm-wlm, slurm-client and munge.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from scale.service import WAIT, free_ports, is_free, need, service, wait_for

import pytest
from conftest import until

PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/usr/local/sbin"])
# bash is the first process of a node, and reaps what is left over there.
NODE = """
hostname "$1" && mount --bind "$2" /etc/hosts || exit
for own in "${@:3}"; do mount -t tmpfs own "$own" || exit; done
slurmd -D -N "$1" &
wait
"""


class Slurm:
    """A running cluster."""

    def __init__(self, folder: Path, ports: dict[str, int]) -> None:
        self.folder, self.ports = folder, ports
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self.nodes: dict[str, ExitStack] = {}
        self.own: list[Path] = []  # folders of which each node has its own, empty when it starts

    def ask(self, *command: str, **environment: str) -> str:
        """What a command of Slurm prints; it must succeed."""
        done = subprocess.run(
            command,
            env=os.environ | {"PATH": PATH} | self.environment | environment,
            capture_output=True,
            text=True,
            timeout=WAIT,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def jobs(self) -> dict[str, str]:
        """The state of each job that is queued or runs; `17_2` is task 2 of an array."""
        return dict(line.split() for line in self.ask("squeue", "-hr", "-o%i %T").splitlines())

    def places(self) -> dict[str, str]:
        """The node of each running job."""
        lines = self.ask("squeue", "-hr", "-tRUNNING", "-o%i %N").splitlines()
        return dict(line.split() for line in lines)

    def start(self, node: str) -> None:
        """Start a node, or start it again; returns when jobs can run there."""
        spaces = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command = [*spaces, "bash", "-c", NODE, "node", node, self.folder / "hosts", *self.own]
        folder = self.folder / node
        folder.mkdir(exist_ok=True)
        environment = {"PATH": PATH} | self.environment
        with ExitStack() as stack:
            # The first process of a PID namespace takes all others with it.
            process = stack.enter_context(service(command, folder, environment, signal.SIGKILL))
            wait_for(process, lambda: self.is_up(node))
            self.nodes[node] = stack.pop_all()

    def is_up(self, node: str) -> bool:
        """Whether a node listens, and the cluster knows it."""
        return not is_free(self.ports[node]) and self.state(node) in ("idle", "mixed", "allocated")

    def state(self, node: str) -> str:
        """As Slurm calls it: `down*` does not answer."""
        return self.ask("sinfo", "-hplow", "-n", node, "-o%T")

    def separate(self, folder: Path) -> None:
        """Give each node a folder of its own in place of one that they share; the nodes start anew."""
        folder.mkdir(parents=True, exist_ok=True)
        self.own.append(folder)
        for node in self.ports:
            self.kill(node)
            self.start(node)

    def kill(self, node: str) -> None:
        """Kill a node with all that runs there, as by pulling its plug."""
        self.nodes.pop(node).close()

    def clear(self) -> None:
        """Cancel all jobs, and wait until none is left."""
        self.ask("scancel", "--user=root")
        until(lambda: not self.jobs())


@contextmanager
def slurm(folder: Path, nodes: int = 2, cpus: int = 2) -> Iterator[Slurm]:
    """Start a cluster, which ends with the block. Its nodes are n1, n2 …

    Args:
        folder: what it keeps; short, for it holds a socket.
        nodes: how many.
        cpus: of each node.
    """
    need(shutil.which("slurmctld", path=PATH) and shutil.which("munged", path=PATH), "Slurm")
    if os.geteuid() != 0:
        pytest.skip("only root can start a Slurm cluster")
    cluster = Slurm(folder, write_settings(folder, nodes, cpus))
    environment = {"PATH": PATH} | cluster.environment
    with ExitStack() as stack:
        munge = stack.enter_context(service(munged(folder), folder, environment))
        wait_for(munge, (folder / "munge.sock").exists)
        stack.enter_context(service(["slurmctld", "-D"], folder, environment))
        stack.callback(lambda: [cluster.kill(node) for node in [*cluster.nodes]])
        for node in cluster.ports:
            cluster.start(node)
        yield cluster


def munged(folder: Path) -> list[str]:
    """The service by which the daemons know each other, with a key of its own."""
    files = {"key-file": "key", "socket": "munge.sock", "pid-file": "pid", "seed-file": "seed"}
    places = [f"--{option}={folder / file}" for option, file in files.items()]
    return ["munged", "--foreground", "--force", "--num-threads=2", *places]


def write_settings(folder: Path, nodes: int, cpus: int) -> dict[str, int]:
    """Write the settings of a cluster, its key, and the names of its nodes; returns the port of each node."""
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    (folder / "state").mkdir()
    key = folder / "key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(1024))
    first, *others = free_ports(1 + nodes)
    ports = {f"n{number}": port for number, port in enumerate(others, 1)}
    (folder / "hosts").write_text(f"127.0.0.1 localhost {' '.join(ports)}\n")
    host = socket.gethostname().partition(".")[0]
    text = Path(__file__).with_name("slurm.conf").read_text()
    for name, value in {"FOLDER": folder, "HOST": host, "PORT": first}.items():
        text = text.replace(f"@{name}@", str(value))
    lines = [
        f"NodeName={node} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=4000\n"
        for node, port in ports.items()
    ]
    (folder / "slurm.conf").write_text(text + "".join(lines))
    return ports
