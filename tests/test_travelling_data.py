"""Data versions that travel: file by file, each checked by its digest."""

import hashlib
from dataclasses import replace
from pathlib import Path

from src.utils.errors import UserError
from src.utils.paths import Experiment
from src.utils.pipeline.manifest import Manifest, json_digest
from src.utils.transfer.version_files import VersionFolder

import pytest

FEATURE = Experiment("feature", "feature01")


def made(place: VersionFolder, files: dict[str, str]) -> Manifest:
    """A version, as a stage makes it."""
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}
    manifest = Manifest(str(FEATURE), "f" * 64, json_digest(digests), digests, "0" * 32)
    folder = place.of(FEATURE) / manifest.digest[:32]
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    manifest.write(folder)
    return replace(manifest, folder=folder)


def moved(source: VersionFolder, target: VersionFolder, manifest: Manifest) -> list[int]:
    """The sizes of the files that were written."""
    with source.open(manifest, target.missing(manifest)) as folder:
        return [size for size in target.add(manifest, folder, source.builds(manifest)) if size]


def test_each_file_once(tmp_path: Path) -> None:
    """Of a second version only the files that are new are written; the others are hard links. All are
    read-only, with the time that they had. What an interrupted transfer has left is used."""
    source, target = VersionFolder(tmp_path / "source"), VersionFolder(tmp_path / "target")
    first = made(source, {"a.txt": "same", "b/c.txt": "old"})
    second = made(source, {"a.txt": "same", "b/c.txt": "newer", "d.txt": "half"})
    assert moved(source, target, first) == [4, 3]
    draft = target.of(FEATURE) / f".{second.digest[:32]}.draft"
    draft.mkdir()
    (draft / "d.txt").write_text("half")
    assert moved(source, target, second) == [5]
    one, two = (target.find(FEATURE, version.digest) for version in (first, second))
    assert one
    assert two
    assert one.folder.joinpath("a.txt").samefile(two.folder / "a.txt")
    assert (two.folder / "b/c.txt").read_text() == "newer"
    assert (two.folder / "b/c.txt").stat().st_mode & 0o222 == 0
    times = {(one.folder / "a.txt").stat().st_mtime_ns for one in (first, two)}
    assert len(times) == 1


def test_damaged(tmp_path: Path) -> None:
    """A file that is not what its manifest says does not arrive, nor does its version; one that was edited
    at the target is not taken for another."""
    source, target = VersionFolder(tmp_path / "source"), VersionFolder(tmp_path / "target")
    first, second = made(source, {"a": "same"}), made(source, {"a": "same", "b": "two"})
    moved(source, target, first)
    edited = target.of(FEATURE) / first.digest[:32] / "a"
    edited.chmod(0o644)
    edited.write_text("edit")
    (source.of(FEATURE) / second.digest[:32] / "b").write_text("owt")
    with pytest.raises(UserError, match="b is not what its manifest says"):
        moved(source, target, second)
    assert target.find(FEATURE, second.digest) is None
    (source.of(FEATURE) / second.digest[:32] / "b").write_text("two")
    assert moved(source, target, second) == [3]
    assert (target.of(FEATURE) / second.digest[:32] / "a").read_text() == "same"
