"""Data versions in a folder: `_data/versions` of a project, or `data` of an exchange folder.

    <stage>/<name>/<digest>/                    files and manifest.json, read-only
    <stage>/<name>/builds/<fingerprint>.json    from what it was built

A version arrives in a draft beside the others and is moved into place when each file has the digest that its
manifest says. After an interruption the next transfer goes on with the files that the draft has.
"""

import hashlib
import json
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Protocol

from src.utils.errors import UserError
from src.utils.files import replace_file
from src.utils.paths import Experiment
from src.utils.pipeline.manifest import FILE_NAME, Manifest, file_digest
from src.utils.pipeline.versions import BUILDS, LENGTH

from filelock import FileLock

CHUNK = 2**20
Builds = Mapping[str, str]  # the text of each file in `builds`, by name


class Versions(Protocol):
    """The data versions that a place keeps."""

    def find(self, experiment: Experiment, digest: str) -> Manifest | None:
        """The manifest of a version with all of its files; None if it is not there."""

    def missing(self, manifest: Manifest) -> list[str]:
        """The files of a version, by relative path, whose content no version here has."""

    def open(self, manifest: Manifest, names: Sequence[str]) -> AbstractContextManager[Path]:
        """The folder of a version on this machine: its own, or a download, which is removed afterwards.

        Args:
            names: the files that are wanted.
        """

    def builds(self, manifest: Manifest) -> Builds:
        """From what the version was built."""

    def add(self, manifest: Manifest, source: Path, builds: Builds) -> Iterator[int]:
        """Add a version from a folder with its missing files; yields the size of each that was written.

        Raises:
            UserError: a file is not what its manifest says.
        """


class VersionFolder(Versions):
    """Data versions in a folder on this machine, which need not exist yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, experiment: Experiment, digest: str) -> Manifest | None:
        manifest = Manifest.of_folder(self.of(experiment) / digest[:LENGTH])
        if manifest is None or not all(
            (manifest.folder / name).is_file() for name in manifest.files
        ):
            return None
        return manifest

    def missing(self, manifest: Manifest) -> list[str]:
        known = self._known_files(manifest)
        return [
            name
            for name, digest in manifest.files.items()
            if next(_intact(known[digest], digest), None) is None
        ]

    def open(self, manifest: Manifest, names: Sequence[str]) -> AbstractContextManager[Path]:
        return nullcontext(manifest.folder)

    def builds(self, manifest: Manifest) -> Builds:
        files = self.of(Experiment.named(manifest.experiment)).glob(f"{BUILDS}/*.json")
        texts = {file.name: file.read_text() for file in files}
        return {
            name: text
            for name, text in texts.items()
            if json.loads(text)["manifest"]["digest"] == manifest.digest
        }

    def add(self, manifest: Manifest, source: Path, builds: Builds) -> Iterator[int]:
        own = self.of(Experiment.named(manifest.experiment))
        digest = manifest.digest[:LENGTH]
        own.mkdir(parents=True, exist_ok=True)
        with FileLock(own / f".{digest}.lock"):
            draft, known = own / f".{digest}.draft", self._known_files(manifest)
            for name, expected in manifest.files.items():
                yield _add_file(draft / name, source / name, expected, known[expected])
            manifest.write(draft)
            with FileLock(own / ".lock"):
                shutil.rmtree(own / digest, ignore_errors=True)  # incomplete: `find` found none
                draft.rename(own / digest)
                self.write_builds(manifest, builds)

    def write_builds(self, manifest: Manifest, builds: Builds) -> None:
        """Write from what a version was built, where that is not known yet."""
        folder = self.of(Experiment.named(manifest.experiment)) / BUILDS
        for name, text in builds.items():
            if not (folder / name).exists():
                with replace_file(folder / name) as draft:
                    draft.write_text(text)

    def of(self, experiment: Experiment) -> Path:
        """The folder of the versions of an experiment."""
        return self.folder / experiment.stage / experiment.name

    def _known_files(self, manifest: Manifest) -> defaultdict[str, list[Path]]:
        """The files of all versions of the experiment, by the digests in their manifests."""
        known: defaultdict[str, list[Path]] = defaultdict(list)
        for file in self.of(Experiment.named(manifest.experiment)).glob(f"[!.]*/{FILE_NAME}"):
            other = Manifest.of_folder(file.parent)
            for name, digest in other.files.items() if other else ():
                known[digest].append(file.parent / name)
        return known


def _intact(files: Iterable[Path], digest: str) -> Iterator[Path]:
    """Those whose content has the digest: somebody may have edited a file."""
    return (file for file in files if file.is_file() and file_digest(file) == digest)


def _add_file(file: Path, source: Path, digest: str, known: Iterable[Path]) -> int:
    """Bytes that were written: none if the draft or another version has the file."""
    if file.exists() and file_digest(file) == digest:
        return 0
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    for other in _intact(known, digest):
        try:
            file.hardlink_to(other)
        except OSError:  # no hard links here, or not so many
            return _copy_file(other, file, digest)
        return 0
    return _copy_file(source, file, digest)


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compare files with the manifest of their version.

    Raises:
        UserError: a file is not what the manifest says.
    """
    for name, digest in manifest.files.items():
        if file_digest(folder / name) != digest:
            raise _damaged(folder / name)


def _copy_file(source: Path, file: Path, digest: str) -> int:
    content = hashlib.sha256()
    with replace_file(file) as draft:
        with source.open("rb") as old, draft.open("wb") as new:
            while chunk := old.read(CHUNK):
                content.update(chunk)
                new.write(chunk)
        if content.hexdigest() != digest:
            raise _damaged(source)
        shutil.copystat(source, draft)
        with suppress(OSError):  # a file system without permissions
            draft.chmod(source.stat().st_mode & 0o555)
    return file.stat().st_size


def _damaged(file: Path) -> UserError:
    return UserError(
        f"{file} is not what its manifest says: it was edited, or its disk is damaged; "
        "remove its version, and build it again"
    )
