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

from src.utils.errors import UserError
from src.utils.lab.transfer import Choice, transfer
from src.utils.transfer.host import Host
from src.utils.transfer.place import Place
from src.utils.transfer.ssh_clone import SshClone
from src.utils.transfer.ssh_folder import SshFolder
from src.utils.transfer.where import target_place

import pytest
from conftest import Lab, free_port, until
from laboratory import refused, said
from test_travel import (  # noqa: F401  two of them are fixtures
    a_laboratory,
    another_clone,
    clone_of,
    files,
    known,
    store_of,
)

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
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


def test_a_folder(
    home: Lab, away: Lab, box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder there needs nothing but rsync. A push that is killed goes on; all arrives in another clone,
    data, code and studies, too, which can be resumed; a second push and a second pull move nothing."""
    path = f"{tmp_path}/Anna's folder/runs"
    process = home.start(
        sys.executable, "-m", "src.utils.lab.cli", "push", f"box:{path}", **box.ssh
    )
    until(lambda: [*tmp_path.glob("*/runs/runs/*/artifacts/*/*")])
    process.send_signal(signal.SIGKILL)
    process.communicate()
    said(home, "push", f"box:{path}", "--data", **box.ssh)
    text = said(away, "pull", f"box:{path}", "--data", **box.ssh)
    assert "feature/feature01/" in text
    assert known(away) == known(home)
    assert files(away) == files(home)
    assert versions(away) == versions(home)
    assert codes(away) == codes(home)
    assert not [*(away.root / "outputs").glob("transfer/*/runs/*/artifacts")]

    monkeypatch.setenv("PATH", box.path)
    there = SshFolder("box", Host("box"), path, tmp_path / "mirror")
    for source, target in ((store_of(home), there), (there, store_of(away))):
        assert nothing_to_do(source, target)
    assert "2 complete" in away.done("src/model/model92/logistic.py", "-m", "resume_study=latest")


def nothing_to_do(source: Place, target: Place) -> bool:
    """Whether a transfer of all that there is, data included, moves nothing."""
    moved = transfer(source, target, Choice(), True, False).moved
    return {*moved.runs.values()} == {"unchanged"} and not (
        moved.studies or moved.data or moved.commits
    )


def codes(lab: Lab) -> set[str]:
    """The commits that are kept."""
    return {file.name for file in (lab.root / "logs/code.git/refs/commits").glob("*")}


def test_a_clone(
    home: Lab, away: Lab, box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clone there takes runs into its own store, and gives its own. What was tagged there comes along, and
    no file stays on its way; a second push moves nothing."""
    third = clone_of(home, tmp_path / "third")
    said(home, "push", f"box:{away.root}", "--data", **box.ssh)
    assert known(away) == known(home)
    assert files(away) == files(home)
    assert versions(away) == versions(home)
    assert codes(away) == codes(home)
    monkeypatch.setenv("PATH", box.path)
    there = SshClone("box", Host("box"), str(away.root), tmp_path / "mirror")
    assert nothing_to_do(store_of(home), there)
    away.client.set_tag(away.newest("model/model92").info.run_id, "reviewed", "yes")
    transfer(there, store_of(third), Choice(), True, False)
    assert known(third) == known(away)
    assert versions(third) == versions(home)
    assert codes(third) == codes(home)
    assert not [*(away.root / "outputs" / "transfer").glob("*")]


def test_refusals(home: Lab, box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is named; so is a host that can't be reached, and a folder of something else."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "holiday.jpg").touch()
    line = refused(home, "push", f"box:{tmp_path}/other", **box.ssh)
    assert "other things" in line
    monkeypatch.setenv("PATH", box.path)
    with pytest.raises(UserError, match=r"nowhere can't be reached by ssh: .* ~/.ssh/config"):
        target_place("nowhere:runs")
    for tool in ("ssh", "rsync"):
        monkeypatch.setenv("PATH", str(without(tool, tmp_path / f"no-{tool}")))
        with pytest.raises(UserError, match=f"{tool} is missing on this machine"):
            target_place("box:runs")


def without(tool: str, folder: Path) -> Path:
    """A folder of programs that lacks one."""
    folder.mkdir()
    for program in {"ssh", "rsync"} - {tool}:
        (folder / program).touch(mode=0o755)  # is not called
    return folder
