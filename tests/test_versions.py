"""Versions of data: what was built is kept, is found again, and stays what each run reads."""

import os
import shutil
import sys
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
    version_in_use,
)

import pytest
from conftest import Lab, add_experiment, made_once, until

WORDS = Experiment("feature", "words")
FEATURE = "src/feature/feature90/words.py"
MODEL = "src/model/model92/word_reader.py"


@pytest.fixture(name="data")
def a_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty `_data`."""
    monkeypatch.setattr(paths, "DATA", tmp_path / "_data")
    monkeypatch.setattr(versions, "VERSIONS", tmp_path / "_data" / "versions")
    monkeypatch.setattr(versions, "ROOT", versions.MAIN_CHECKOUT)  # the tests may run in a worktree
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


def plain(data: Path, **files: str) -> Path:
    """A folder as earlier versions of the engine made it, with these files in it now."""
    manifest = built("a", file="text")
    folder = data / "feature/words"
    shutil.rmtree(data / "versions")
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    manifest.write(folder)
    return folder


def test_a_plain_folder(data: Path) -> None:
    """A folder of an earlier version of the engine is taken over; its settings need no new build."""
    folder = plain(data, file="text")
    manifest = version_in_use(WORDS)
    assert folder.is_symlink()
    assert (folder / "file").read_text() == "text"
    assert manifest == find_build(WORDS, "a") == Manifest.read(WORDS)


def test_an_edited_folder(data: Path) -> None:
    """A folder whose files were edited, or have no manifest, is kept as what it is; no build is confused."""
    folder = plain(data, file="edited", more="more")
    edited = version_in_use(WORDS)
    assert edited.files.keys() == {"file", "more"}
    assert edited.folder == folder.resolve()
    assert find_build(WORDS, "a") is None
    folder.unlink()
    folder.mkdir()
    (folder / "unknown").write_text("unknown")
    assert version_in_use(WORDS) is None
    use_version(WORDS, built("a", file="text"))
    assert {name for one in list_versions() for name in one.files} == {"file", "more", "unknown"}


def test_a_file_system_without_links(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where symlinks and hard links are refused, the folder that people open is a copy of the version."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr(Path, "symlink_to", refuse)
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    monkeypatch.setattr(os, "link", refuse)
    one, two = built("a", same="same", file="1"), built("b", same="same", file="2")
    for manifest in (one, two, one):
        use_version(WORDS, manifest)
        assert (data / "feature/words/file").read_text() == (manifest.folder / "file").read_text()
        assert version_in_use(WORDS).folder == manifest.folder
    assert len(list_versions()) == 2


@pytest.fixture(scope="session", name="words")
def a_laboratory(shared: Path, clone: Lab) -> Lab:
    """A feature of a word, and a model that reads it."""

    def make(lab: Lab) -> None:
        clone.copied(lab.root)
        feature = "defaults: [/stage, _self_]\nword: one\n"
        add_experiment(lab, FEATURE, feature)
        model = "defaults: [/model, _self_]\nfeature: feature90\nwait: null\nx: 0.5\nmode: min\n"
        add_experiment(lab, MODEL, model)
        lab.done(FEATURE)

    return made_once(shared / "words", make)


def test_going_back(words: Lab, tmp_path: Path) -> None:
    """Other settings make a second version, which costs what differs; going back to the first is no run. A
    build that fails changes nothing, and git sees none of it. So it is where `_data` is on another disk."""
    lab = words.copied(tmp_path / "lab")
    (lab.root / "_data").rename(tmp_path / "disk")
    (lab.root / "_data").symlink_to(tmp_path / "disk")
    link = lab.root / "_data/feature/feature90"
    first = link.resolve()
    lab.done(FEATURE, "word=two")
    second = link.resolve()
    assert lab.run(FEATURE, "word=none").returncode == 2
    assert [(one / "word.txt").read_text() for one in (first, second, link)] == [
        "one",
        "two",
        "two",
    ]
    assert (first / "same.txt").samefile(second / "same.txt")
    said = lab.done(FEATURE)
    assert f"feature/feature90 is back to version {first.name[:8]} (built before" in said
    assert link.resolve() == first
    assert len(lab.runs("feature/feature90")) == 3
    (tmp_path / "disk").rename(lab.root / "disk")
    (lab.root / "_data").unlink()
    (lab.root / "disk").rename(lab.root / "_data")
    assert (link / "word.txt").read_text() == "one"
    assert lab.git("status", "--porcelain") == ""


def test_a_run_keeps_its_version(words: Lab, tmp_path: Path) -> None:
    """All members of a group and all trials of a search, with any launcher, read the version that was there
    when it began, although another is built meanwhile; so does a run or study that is resumed later."""
    lab, go = words.copied(tmp_path / "lab"), tmp_path / "go"
    search = ("-m", "x=choice(0.1,0.2)", "hydra.sweeper.n_jobs=1", "hydra.sweeper.n_trials=2")
    command = (sys.executable, lab.root / MODEL, f"wait={go}")
    stopped = lab.start(*command)
    until(lambda: lab.runs("model/model92"))
    running = [
        lab.start(*command, *more)
        for more in (("seeds=2",), search, (*search, "hydra/launcher=basic"))
    ]
    until(lambda: len(lab.runs("model/model92")) == 8)  # a group of 2, 2 studies with a trial each
    stopped.terminate()
    stopped.communicate()
    lab.done(FEATURE, "word=two")
    go.touch()
    for process in running:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, out + err
    study = "hydra.sweeper.n_trials=3"
    (run,) = [one for one in lab.runs("model/model92") if one.info.status == "KILLED"]
    for more in ((f"resume_run={run.info.run_id}",), ("-m", "resume_study=latest", study)):
        said = lab.done(MODEL, *more)
        assert "is read, as it was before" in said
    read = [one.data.tags["read"] for one in lab.runs("model/model92") if "read" in one.data.tags]
    assert read == ["one"] * 8
    lab.done(MODEL)
    assert lab.newest("model/model92").data.tags["read"] == "two"


def test_builds_at_once(words: Lab, tmp_path: Path) -> None:
    """Of two processes with the same settings one builds; two with other settings build their own."""
    lab = words.copied(tmp_path / "lab")
    texts = ("two", "two", "three")
    running = [lab.start(sys.executable, lab.root / FEATURE, f"word={text}") for text in texts]
    for process in running:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, out + err
    assert len(lab.runs("feature/feature90")) == 3
    found = (lab.root / "_data/versions/feature/feature90").glob("*/word.txt")
    assert {file.read_text() for file in found} == {"one", "two", "three"}
