"""Another machine, by ssh and rsync: one connection for all commands and files.

Which key, port or gateway a host needs is said in `~/.ssh/config`. Files come in one step each; an
interrupted one goes on where it was (`--partial-dir`); one that is there, with size and time, is left out.
"""

import atexit
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from src.utils.errors import UserError

# `user@host:path` and `host:path`, but no C:\folder, no http://… and no option of ssh
WHERE = re.compile(r"(?!-)(?P<host>(?:[^\s/:@]+@)?[^\s/:@]{2,}):(?!//)(?P<path>.*)")
# A lost connection is noticed in a minute; that of a killed process is closed after ten
OPTIONS = ("-o", "ServerAliveInterval=15", "-o", "ControlPersist=600")
RSYNC = ("--recursive", "--times", "--copy-links", "--partial-dir=.rsync-partial")
MARK = "jikken:"  # begins what is answered there: its shell may print a greeting
PROBE = """
command -v rsync >/dev/null && echo jikken:rsync
cd {path} 2>/dev/null || exit 0
echo jikken:folder
[ -e src/utils/paths.py ] && echo jikken:project
[ -d runs ] && echo jikken:runs
[ -z "$(ls -A)" ] && echo jikken:empty
exit 0
"""


def parse_where(where: str) -> tuple[str, str] | None:
    """Host and path of `user@host:path`; None for anything else, or if a folder has that name."""
    found = WHERE.fullmatch(where)
    return (found["host"], found["path"]) if found and not Path(where).exists() else None


class Host:
    """A connection to another machine, which lasts as long as this object.

    Raises:
        UserError: ssh or rsync is missing, here or there, or the host can't be reached.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        for tool in ("ssh", "rsync"):
            if shutil.which(tool) is None:
                raise UserError(
                    f"{tool} is missing on this machine: {name} is reached by ssh and rsync"
                )
        place = "/tmp" if Path("/tmp").is_dir() else None  # the path of a socket must be short
        self._folder = tempfile.TemporaryDirectory(dir=place, prefix="jikken-")
        self._socket = f"{self._folder.name}/ssh"
        self._connect()
        atexit.register(self.close)

    def _connect(self) -> None:
        """ssh asks for passwords on the terminal; what it says of an error is in a file, not in a pipe, which
        the process in the background would keep open."""
        options = ("-f", "-N", "-M", "-S", self._socket, *OPTIONS)
        with tempfile.TemporaryFile("w+") as said:
            done = subprocess.run(
                ["ssh", *options, self.name], check=False, stdout=said, stderr=said
            )
            said.seek(0)
            if done.returncode:
                self._folder.cleanup()
                why = _last_line(said.read()) or "no answer"
                raise UserError(
                    f"{self.name} can't be reached by ssh: {why}; options of ssh belong into ~/.ssh/config"
                )

    def close(self) -> None:
        """Close the connection."""
        subprocess.run([*self.ssh, "-O", "exit"], check=False, capture_output=True)
        self._folder.cleanup()

    @property
    def ssh(self) -> list[str]:
        """The command that goes to the host."""
        return ["ssh", "-S", self._socket, self.name]

    def probe(self, path: str) -> set[str]:
        """What a path there is: `folder`, `empty`, `runs` (an exchange folder), `project` (a clone).

        Raises:
            UserError: rsync is missing there.
        """
        said = self.run(PROBE.format(path=shlex.quote(path or ".")))
        found = {line.removeprefix(MARK) for line in said.splitlines() if line.startswith(MARK)}
        if "rsync" not in found:
            raise UserError(f"rsync is missing on {self.name}: install it there")
        return found

    def run(self, script: str) -> str:
        """Run a script of the shell there; returns what it prints.

        Raises:
            UserError: it has failed.
        """
        command = [*self.ssh, "sh", "-s"]
        done = subprocess.run(command, check=False, input=script, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"{self.name} answers: {_last_line(done.stderr) or 'nothing'}")
        return done.stdout

    def start(self, script: str, errors: IO[str]) -> "subprocess.Popen[str]":
        """Start a command there that is talked to."""
        command, pipe = [*self.ssh, script], subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True)

    def upload(
        self,
        folder: Path,
        path: str,
        names: Iterable[Path | str] | None = None,
        options: Sequence[str] = (),
    ) -> Iterator[int]:
        """Bring files to a folder there, which is made; yields the size of each that was sent.

        Args:
            names: relative to the folder; all files without it.

        Raises:
            UserError: rsync has failed.
        """
        make = f"mkdir -p {shlex.quote(path)} && rsync"
        given = [f"--rsync-path={make}", *options]
        yield from self._rsync(given, f"{folder}/", f"{self.name}:{path}/", names)

    def download(
        self,
        path: str,
        folder: Path,
        names: Iterable[Path | str] | None = None,
        options: Sequence[str] = (),
    ) -> int:
        """Bring files of a folder there to a folder here, which is made; returns how many came.

        Raises:
            UserError: rsync has failed.
        """
        folder.mkdir(parents=True, exist_ok=True)
        return len([*self._rsync(options, f"{self.name}:{path}/", f"{folder}/", names)])

    def _rsync(
        self,
        options: Sequence[str],
        source: str,
        target: str,
        names: Iterable[Path | str] | None,
    ) -> Iterator[int]:
        command = ["rsync", *RSYNC, "--protect-args", f"--rsh=ssh -S {self._socket}", *options]
        command += ["--out-format=%i %l"] + ["--from0", "--files-from=-"] * (names is not None)
        listed = "\0".join(map(str, names or ()))
        with tempfile.TemporaryFile("w+") as asked, tempfile.TemporaryFile("w+") as errors:
            asked.write(listed)
            asked.seek(0)
            with subprocess.Popen(
                [*command, source, target],
                stdin=asked,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            ) as process:
                assert process.stdout
                for line in process.stdout:
                    kind, _, size = line.rpartition(" ")
                    if kind[:2] in ("<f", ">f"):
                        yield int(size)
            errors.seek(0)
            if process.returncode:
                raise UserError(f"rsync with {self.name}: {_first_line(errors.read())}")


def send(
    host: Host,
    folder: Path,
    path: str,
    names: Iterable[Path | str] | None = None,
    options: Sequence[str] = (),
) -> None:
    """Bring files to a folder there, as `Host.upload` does, whatever their sizes.

    Raises:
        UserError: rsync has failed.
    """
    for _ in host.upload(folder, path, names, options):
        pass


def _first_line(text: str) -> str:
    return next((line for line in text.splitlines() if line.strip()), "failed").strip()


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "").strip()
