"""Versions of data: what was built is kept, is found again, and stays what each run reads."""

import os
from pathlib import Path

from src.utils import paths
from src.utils.paths import Experiment
from src.utils.pipeline import versions
from src.utils.pipeline.manifest import Manifest, file_digests, json_digest
from src.utils.pipeline.versions import (
    add_version,
    build_lock,
    find_build,
    find_version,
    list_versions,
    open_draft,
    use_version,
    version_folder,
)

import pytest

WORDS = Experiment("feature", "words")


@pytest.fixture(name="data")
def a_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty `_data`."""
    monkeypatch.setattr(paths, "DATA", tmp_path / "_data")
    monkeypatch.setattr(versions, "VERSIONS", tmp_path / "_data" / "versions")
    return tmp_path / "_data"


def built(fingerprint: str, **files: str) -> Manifest:
    """A version with these files, as a stage would make it."""
    with build_lock(WORDS, fingerprint), open_draft(WORDS, fingerprint) as draft:
        for name, text in files.items():
            (draft / name).write_text(text)
        found = file_digests(draft)
        manifest = Manifest(
            str(WORDS), fingerprint, json_digest(found), found, f"run-{fingerprint}"
        )
        return add_version(draft, manifest, None)


def test_two_versions(data: Path) -> None:
    """Both stay, read-only, and share equal files; a digest or its beginning finds them."""
    one, two = built("a", same="same", other="1"), built("b", same="same", other="2")
    assert one.folder == version_folder(WORDS, one.digest).resolve()
    assert (one.folder / "same").samefile(two.folder / "same")
    assert [(each.folder / "other").read_text() for each in (one, two)] == ["1", "2"]
    assert {file.stat().st_mode & 0o777 for file in data.rglob("*/other")} == {0o444}
    assert find_version(WORDS, one.digest) == find_version(WORDS, one.digest[:8]) == one
    assert find_version(WORDS, "") is find_version(WORDS, "0" * 32) is None
    assert {each.digest for each in list_versions()} == {one.digest, two.digest}
    assert not list(data.rglob("*.draft"))


def test_the_same_content(data: Path) -> None:
    """Made from something else, content is stored once, and both builds lead to it."""
    one, two = built("a", file="same"), built("b", file="same")
    assert one.folder == two.folder
    assert find_version(WORDS, one.digest) == two
    assert find_build(WORDS, "a") == one
    assert find_build(WORDS, "b") == two
    assert find_build(WORDS, "c") is None


def test_a_version_without_its_files(data: Path) -> None:
    """A version that somebody has deleted, or a part of it, is not found, or is made whole by a build."""
    one = built("a", file="text", more="more")
    (one.folder / "file").unlink()
    assert built("a", file="text", more="more") == one
    assert (one.folder / "file").read_text() == "text"
    (one.folder / "manifest.json").unlink()
    assert find_build(WORDS, "a") is find_version(WORDS, one.digest) is None


def test_the_version_in_use(data: Path) -> None:
    """A link says which one is in use; it is relative, so that the project may be moved or copied."""
    one, two = built("a", file="1"), built("b", file="2")
    for manifest in (one, two, one):
        use_version(WORDS, manifest)
        assert Manifest.read(WORDS) == manifest
        assert Manifest.read(WORDS).folder == manifest.folder
    moved = data.rename(data.with_name("moved"))
    assert (moved / "feature/words/file").read_text() == "1"


def test_drafts_of_killed_processes(data: Path) -> None:
    """A draft that was left behind is deleted by the next build, one of a running process is not."""
    with build_lock(WORDS, "a"), open_draft(WORDS, "a") as draft:
        left = draft.with_name(".b.draft")
        left.mkdir()
        built("c", file="text")
        assert draft.is_dir()
        assert not left.exists()


def test_links_of_a_stage(data: Path, tmp_path: Path) -> None:
    """Files that a stage has linked from outside keep their permissions; empty folders are kept."""
    raw = tmp_path / "raw"
    raw.write_text("raw")
    with build_lock(WORDS, "a"), open_draft(WORDS, "a") as draft:
        (draft / "soft").symlink_to(raw)
        (draft / "hard").hardlink_to(raw)
        (draft / "empty").mkdir()
        found = file_digests(draft)
        add_version(draft, Manifest(str(WORDS), "a", json_digest(found), found, ""), None)
    (version,) = list_versions()
    assert (version.folder / "soft").is_symlink()
    assert (version.folder / "empty").is_dir()
    assert os.access(raw, os.W_OK)
    assert raw.stat().st_mode & 0o200
