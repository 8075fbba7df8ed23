"""A clone of the project on another machine: its own code there reads and writes its store, data and studies.

`src/utils/transfer/remote.py` answers there; files are brought by rsync, directly to and from its folders or
through `outputs/transfer` there.
"""

import json
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from src.utils.errors import UserError
from src.utils.paths import Experiment
from src.utils.pipeline.manifest import Manifest
from src.utils.runs.kept_code import KEPT, add_commits
from src.utils.transfer.artifacts import list_files
from src.utils.transfer.host import MARK, Host, send
from src.utils.transfer.place import Copied, Place, Report
from src.utils.transfer.portable import PortableRun
from src.utils.transfer.studies import STUDY_FILE
from src.utils.transfer.version_files import Builds, Versions

MODULE = "src.utils.transfer.remote"
START = """cd {path} && if [ -x .venv/bin/python ]; then exec .venv/bin/python -m {module}; \
else exec poetry run python -m {module}; fi"""


class SshClone(Place):
    """A clone on another machine.

    Raises:
        UserError: its code can't answer.
    """

    def __init__(self, name: str, host: Host, path: str, mirror: Path) -> None:
        """Open it.

        Args:
            name: as it was typed.
            mirror: a folder of this place alone, for files on their way.
        """
        self.name, self.host, self.mirror = name, host, mirror
        self._known: set[str] = set()  # ids of its runs
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  it is open as long as the process
        script = START.format(path=shlex.quote(path), module=MODULE)
        self._process = host.start(script, self._errors)

    def ask(self, call: str, *arguments: Any) -> Any:
        """Let the other side answer a call.

        Raises:
            UserError: it refuses, or the connection is lost.
        """
        assert self._process.stdin and self._process.stdout
        try:
            print(json.dumps([call, *arguments]), file=self._process.stdin, flush=True)
            lines = iter(self._process.stdout.readline, "")
            line = next((line for line in lines if line.startswith(MARK)), None)
        except BrokenPipeError:
            line = None
        if line is None:
            raise UserError(f"{self.name} answers: {self._last_error()}")
        answer = json.loads(line.removeprefix(MARK))
        if "error" in answer:
            raise UserError(f"{self.name} answers: {answer['error']}")
        return answer["answer"]

    def _last_error(self) -> str:
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines() or ["the connection is lost"]
        is_old = MODULE in lines[-1] or MODULE.rpartition(".")[0] in lines[-1]
        return "its engine has no lab push yet: lab upgrade there" if is_old else lines[-1]

    def runs(self) -> list[PortableRun]:
        runs = [PortableRun.from_dict(run) for run in self.ask("runs")]
        self._known = {run.id for run in runs}
        return runs

    def read(self, run_id: str) -> PortableRun:
        return PortableRun.from_dict(self.ask("read", run_id))

    @contextmanager
    def artifacts(self, run: PortableRun) -> Iterator[Path]:
        here = self.mirror / run.id
        there = self.ask("artifacts", run.without_history().as_dict())
        if "folder" in self.host.probe(there):
            self.host.download(there, here)
        yield here
        shutil.rmtree(here, ignore_errors=True)

    def write_artifacts(self, run: PortableRun, source: Path, report: Report) -> Copied:
        """What the clone has of them already is not sent again."""
        values, copied = run.without_history().as_dict(), Copied()
        known = run.id in self._known
        options = [f"--compare-dest={self.ask('artifacts', values)}"] if known else []
        inbox = self.ask("inbox", run.id)
        for size in self.host.upload(source, inbox, list_files(source), options):
            report(size)
            copied = copied.plus(Copied(1, size))
        self.ask("write_artifacts", values, run.id)
        return copied

    def write(self, run: PortableRun) -> None:
        self.ask("write", run.as_dict())

    @contextmanager
    def lock(self) -> Iterator[None]:
        """As long as this process lives: the other side ends with it."""
        self.ask("lock")
        yield
        self.ask("unlock")

    def read_study(self, name: str, draft: Path) -> bool:
        there = self.ask("read_study", name)
        if there is not None:
            self.host.download(there, self.mirror)
            shutil.move(self.mirror / STUDY_FILE, draft)
        return there is not None

    def write_study(self, name: str, file: Path) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            shutil.copyfile(file, Path(folder, STUDY_FILE))
            send(self.host, Path(folder), self.ask("inbox", "studies"))
        return bool(self.ask("write_study", name, "studies"))

    def has_code(self, commit: str) -> bool:
        return not self.ask("missing_code", [commit])

    @contextmanager
    def repositories(self, commits: Sequence[str]) -> Iterator[list[Path]]:
        here = self.mirror / KEPT.name
        if commits:
            self.host.download(self.ask("repository", list(commits)), here)
        yield [here]
        shutil.rmtree(here, ignore_errors=True)

    def add_code(self, repository: Path, commits: Sequence[str]) -> None:
        if not commits:
            return
        with tempfile.TemporaryDirectory() as folder:
            few = Path(folder, KEPT.name)
            add_commits(few, repository, commits)
            send(self.host, few, self.ask("inbox", KEPT.name))
        self.ask("add_code", KEPT.name, list(commits))

    def versions(self) -> Versions | None:
        return CloneVersions(self)


class CloneVersions(Versions):
    """The data versions of a clone on another machine."""

    def __init__(self, clone: SshClone) -> None:
        self.clone = clone

    def find(self, experiment: Experiment, digest: str) -> Manifest | None:
        found = self.clone.ask("find_version", str(experiment), digest)
        return Manifest.from_json(found) if found else None

    def missing(self, manifest: Manifest) -> list[str]:
        return [str(name) for name in self.clone.ask("missing_files", manifest.to_json())]

    @contextmanager
    def open(self, manifest: Manifest, names: Sequence[str]) -> Iterator[Path]:
        here = self.clone.mirror / manifest.digest
        there, _ = self.clone.ask("open_version", manifest.experiment, manifest.digest)
        self.clone.host.download(there, here, names)
        yield here
        shutil.rmtree(here)

    def builds(self, manifest: Manifest) -> Builds:
        _, builds = self.clone.ask("open_version", manifest.experiment, manifest.digest)
        return {str(name): str(text) for name, text in builds.items()}

    def add(self, manifest: Manifest, source: Path, builds: Builds) -> Iterator[int]:
        inbox = self.clone.ask("inbox", manifest.digest)
        yield from self.clone.host.upload(source, inbox, self.missing(manifest))
        self.clone.ask("add_version", manifest.to_json(), manifest.digest, dict(builds))
