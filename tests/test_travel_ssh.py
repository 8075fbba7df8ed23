"""Runs travel by ssh: to a folder of another machine, and to a clone of the project there.

The other machine is this one, by an sshd that the tests start.
"""

import getpass
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import Lab, free_port, until
from laboratory import refused, said
from test_travel import (  # noqa: F401  two of them are fixtures
    NOTHING,
    a_laboratory,
    another_clone,
    clone_of,
    files,
    known,
    moved,
)

SSHD = shutil.which("sshd", path=os.pathsep.join([os.environ["PATH"], "/usr/sbin"]))
MISSING = [tool for tool in ("ssh", "rsync") if shutil.which(tool) is None]
SERVER = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/key.pub
PidFile {folder}/sshd.pid
StrictModes no
UsePAM no
PermitRootLogin yes
"""
# Of a person this is in ~/.ssh/config.
CLIENT = """
Host box
    HostName 127.0.0.1
    Port {port}
    User {user}
    IdentityFile {folder}/key
    StrictHostKeyChecking no
    UserKnownHostsFile /dev/null
    LogLevel ERROR
Host nowhere
    HostName 127.0.0.1
    Port 1
"""


@dataclass(frozen=True)
class Box:
    """Another machine, which is called `box`."""

    path: str  # of programs, with an `ssh` that knows the box

    @property
    def ssh(self) -> dict[str, str]:
        """The environment in which `lab` is typed."""
        return {"PATH": self.path}

    def without(self, tool: str, folder: Path) -> dict[str, str]:
        """The same on a machine that lacks a program."""
        folder.mkdir()
        for place in reversed(self.path.split(os.pathsep)):
            for program in Path(place).glob("*"):
                (folder / program.name).unlink(missing_ok=True)
                (folder / program.name).symlink_to(program)
        (folder / tool).unlink()
        return {"PATH": str(folder)}


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    if SSHD is None or MISSING:
        pytest.skip(f"{' and '.join(MISSING) or 'sshd'} is not installed")
    folder, port = tmp_path_factory.mktemp("box"), free_port()
    for key in ("key", "host"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key]
        subprocess.run(command, check=True)
    values = {"port": port, "folder": folder, "user": getpass.getuser()}
    (folder / "sshd_config").write_text(SERVER.format(**values))
    (folder / "config").write_text(CLIENT.format(**values))
    program = folder / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/config "$@"\n')
    program.chmod(0o755)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd of root wants it
    log = folder / "sshd.log"
    server = subprocess.Popen([SSHD, "-D", "-f", folder / "sshd_config", "-E", log])
    try:
        until(lambda: subprocess.run([program, "box", "true"], check=False).returncode == 0, 20)
        yield Box(f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    finally:
        server.terminate()
        server.wait(30)


def versions(lab: Lab) -> dict[str, bytes]:
    """The files of all data versions, by path."""
    folder = lab.root / "_data" / "versions"
    files = (file for file in folder.glob("*/*/*/*") if file.suffix != ".lock" and file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_a_folder(home: Lab, away: Lab, box: Box, tmp_path: Path) -> None:
    """A folder there needs nothing but rsync. A push that is killed goes on; all arrives in another clone,
    data, code and studies, too; a second push and a second pull move nothing."""
    where = f"box:{tmp_path}/Anna's folder/runs"
    process = home.start(sys.executable, "-m", "src.utils.lab.cli", "push", where, **box.ssh)
    until(lambda: [*tmp_path.glob("*/runs/runs/*/artifacts/*/*")])
    process.send_signal(signal.SIGKILL)
    process.communicate()
    said(home, "push", where, "--data", **box.ssh)
    assert NOTHING in said(home, "push", where, "--data", **box.ssh)

    text = said(away, "pull", where, "--data", **box.ssh)
    assert "feature/feature01/" in text
    assert known(away) == known(home)
    assert files(away) == files(home)
    assert versions(away) == versions(home)
    assert NOTHING in said(away, "pull", where, "--data", **box.ssh)
    assert not [*(away.root / "outputs").glob("transfer/*/runs/*/artifacts")]
    assert "verdict: identical" in said(away, "rerun", "model92/best")
    assert "2 complete" in away.done("src/model/model92/logistic.py", "-m", "resume_study=latest")


def test_a_clone(home: Lab, away: Lab, box: Box, tmp_path: Path) -> None:
    """A clone there takes runs into its own store, and gives its own: all, or some. What was tagged there
    comes along, and no file stays on its way."""
    where, third = f"box:{away.root}", clone_of(home, tmp_path / "third")
    said(home, "push", where, "--data", **box.ssh)
    assert known(away) == known(home)
    assert files(away) == files(home)
    assert versions(away) == versions(home)
    assert NOTHING in said(home, "push", where, "--data", **box.ssh)
    assert moved(third, "pull", where, "model92/best", **box.ssh) == {"new": 3}
    away.client.set_tag(away.newest("model/model92").info.run_id, "reviewed", "yes")
    assert moved(third, "pull", where, "--data", **box.ssh)["new"] == len(known(home)["runs"]) - 3
    assert known(third) == known(away)
    assert versions(third) == versions(home)
    assert not [*(away.root / "outputs" / "transfer").glob("*")]


def test_refusals(home: Lab, box: Box, tmp_path: Path) -> None:
    """What is missing is named; so is a host that can't be reached, and a folder of something else."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "holiday.jpg").touch()
    assert "other things" in refused(home, "push", f"box:{tmp_path}/other", **box.ssh)
    assert "no runs" in refused(home, "pull", f"box:{tmp_path}/none", **box.ssh)
    line = refused(home, "push", "nowhere:runs", **box.ssh)
    assert "nowhere can't be reached by ssh" in line
    assert "~/.ssh/config" in line
    for tool in ("ssh", "rsync"):
        here = box.without(tool, tmp_path / f"no-{tool}")
        line = refused(home, "push", f"box:{tmp_path}/runs", **here)
        assert f"{tool} is missing on this machine" in line
