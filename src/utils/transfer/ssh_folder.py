"""An exchange folder on another machine: `lab push user@host:path`, where a folder and rsync are enough.

What is small (the runs without their metrics, studies, manifests of data) is copied into a mirror in
`outputs/transfer`, in which it is read and written; artifacts go directly, and come when they are asked for.
"""

import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path

from src.utils.paths import Experiment
from src.utils.pipeline.manifest import FILE_NAME, Manifest
from src.utils.pipeline.versions import BUILDS, LENGTH
from src.utils.runs.kept_code import KEPT
from src.utils.transfer.artifacts import list_files
from src.utils.transfer.folder import ARTIFACTS, DATA, METRICS, RUN, RUNS, STUDIES, FolderPlace
from src.utils.transfer.host import Host, send
from src.utils.transfer.lock import writer_lock
from src.utils.transfer.place import Copied, Place, Report
from src.utils.transfer.portable import PortableRun
from src.utils.transfer.version_files import Builds, VersionFolder, Versions, check_files

# rsync's filters: the first that fits counts, and a folder must be let in before what it holds
LISTED = ("/runs", "/runs/*", f"/runs/*/{RUN}", "/studies", "/studies/*.db")
MANIFESTS = ("/*", "/*/*", "/*/*/*", f"/*/*/*/{FILE_NAME}", f"/*/*/{BUILDS}/*.json")
MOST_LINKED = 20  # folders that rsync compares with


class SshFolder(Place):
    """An exchange folder on another machine. It need not exist before something is written."""

    def __init__(self, name: str, host: Host, path: str, mirror: Path) -> None:
        """Open it.

        Args:
            name: as it was typed.
            mirror: a folder of this place alone.
        """
        self.name, self.host, self.path = name, host, path
        self.mirror = FolderPlace(name, mirror)

    def runs(self) -> list[PortableRun]:
        self._mirror(self.path, self.mirror.folder, [*_only(LISTED), "--prune-empty-dirs"])
        return self.mirror.runs()

    def read(self, run_id: str) -> PortableRun:
        self.host.download(*self._both(f"{RUNS}/{run_id}"), [METRICS, RUN])
        return self.mirror.read(run_id)

    @contextmanager
    def artifacts(self, run: PortableRun) -> Iterator[Path]:
        there, here = self._both(f"{RUNS}/{run.id}/{ARTIFACTS}")
        if self._is_folder(there):
            self.host.download(there, here)
        yield here
        shutil.rmtree(here, ignore_errors=True)

    def write_artifacts(self, run: PortableRun, source: Path, report: Report) -> Copied:
        there, copied = self._both(f"{RUNS}/{run.id}/{ARTIFACTS}")[0], Copied()
        for size in self.host.upload(source, there, list_files(source)):
            report(size)
            copied = copied.plus(Copied(1, size))
        return copied

    def write(self, run: PortableRun) -> None:
        self.mirror.write(run)
        for name in (METRICS, RUN):  # in this order: where it is, the run is complete
            self._upload(f"{RUNS}/{run.id}", [name])

    def lock(self) -> AbstractContextManager[object]:
        self.mirror.folder.mkdir(parents=True, exist_ok=True)
        return writer_lock(self.mirror.folder / ".lock", self.name)

    def read_study(self, name: str, draft: Path) -> bool:
        return self.mirror.read_study(name, draft)

    def write_study(self, name: str, file: Path) -> bool:
        changed = self.mirror.write_study(name, file)
        if changed:
            self._upload(STUDIES)
        return changed

    def has_code(self, commit: str) -> bool:
        return self._code.has_code(commit)

    @contextmanager
    def repositories(self, commits: Sequence[str]) -> Iterator[list[Path]]:
        with self._code.repositories(commits) as known:
            yield known

    def add_code(self, repository: Path, commits: Sequence[str]) -> None:
        self._code.add_code(repository, commits)
        there, here = self._both(KEPT.name)
        send(self.host, here, there, options=["--exclude=/refs", "--exclude=/packed-refs"])
        send(self.host, here, there)  # references come last: where one is, its commit is whole

    def versions(self) -> Versions | None:
        there, here = self._both(DATA)
        self._mirror(there, here, _only(MANIFESTS))
        return SshVersions(self.host, there, here)

    @cached_property
    def _code(self) -> FolderPlace:
        """The mirror with the repository of code."""
        self._mirror(*self._both(KEPT.name))
        return self.mirror

    def _mirror(self, there: str, here: Path, options: Sequence[str] = ()) -> None:
        """Let a folder here be as that there; artifacts that an interrupted pull has left stay."""
        if self._is_folder(there):
            self.host.download(there, here, options=[*options, "--delete"])
        else:
            shutil.rmtree(here, ignore_errors=True)

    def _both(self, name: str) -> tuple[str, Path]:
        return f"{self.path}/{name}", self.mirror.folder / name

    def _is_folder(self, path: str) -> bool:
        return "folder" in self.host.probe(path)

    def _upload(self, name: str, files: Sequence[str] | None = None) -> None:
        there, here = self._both(name)
        send(self.host, here, there, files)


def _only(rules: Sequence[str]) -> list[str]:
    return [*(f"--include={rule}" for rule in rules), "--exclude=*"]


class SshVersions(Versions):
    """The data versions of an exchange folder on another machine, whose manifests are here."""

    def __init__(self, host: Host, path: str, mirror: Path) -> None:
        self.host, self.path, self.mirror = host, path, VersionFolder(mirror)

    def find(self, experiment: Experiment, digest: str) -> Manifest | None:
        return Manifest.of_folder(self.mirror.of(experiment) / digest[:LENGTH])

    def missing(self, manifest: Manifest) -> list[str]:
        return [*manifest.files]  # rsync compares

    @contextmanager
    def open(self, manifest: Manifest, names: Sequence[str]) -> Iterator[Path]:
        folder = self._folder(manifest)
        self.host.download(f"{self.path}/{folder}", self.mirror.folder / folder, names)
        yield self.mirror.folder / folder
        shutil.rmtree(self.mirror.folder / folder)

    def builds(self, manifest: Manifest) -> Builds:
        return self.mirror.builds(manifest)

    def add(self, manifest: Manifest, source: Path, builds: Builds) -> Iterator[int]:
        """Files that another version there has by the same names are not sent."""
        folder = Path(self._folder(manifest))
        draft = f"{self.path}/{folder.parent}/.{folder.name}.draft"
        others = sorted(self.mirror.folder.glob(f"{folder.parent}/[!.]*/{FILE_NAME}"))[
            -MOST_LINKED:
        ]
        links = [f"--link-dest=../{other.parent.name}" for other in others]
        check_files(source, manifest)
        yield from self.host.upload(
            source, draft, manifest.files, ["--checksum", "--perms", *links]
        )
        self._finish(manifest, draft, builds)

    def _finish(self, manifest: Manifest, draft: str, builds: Builds) -> None:
        """The manifest comes last; then the draft is moved to its place."""
        folder = self._folder(manifest)
        local = self.mirror.folder / folder
        local.mkdir(parents=True, exist_ok=True)
        manifest.write(local)
        send(self.host, local, draft, [FILE_NAME], ["--perms"])
        place = shlex.quote(f"{self.path}/{folder}")
        self.host.run(f"rm -rf {place} && mv {shlex.quote(draft)} {place}")
        self.mirror.write_builds(manifest, builds)
        own = f"{Path(folder).parent}/{BUILDS}"
        if builds:
            send(self.host, self.mirror.folder / own, f"{self.path}/{own}", builds)

    def _folder(self, manifest: Manifest) -> str:
        return f"{manifest.experiment}/{manifest.digest[:LENGTH]}"
