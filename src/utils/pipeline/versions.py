"""Versions of data: what an experiment makes is kept under the digest of its content, and never overwritten.

    _data/feature/feature01 -> ../versions/feature/feature01/<digest>     the version in use, a symlink
    _data/versions/feature/feature01/<digest>/                            files and manifest.json, read-only
    _data/versions/feature/feature01/builds/<fingerprint>.json            manifest and recipe of each build

Files that versions of an experiment have in common are stored once, as hard links. The linked worktrees of a
repository share the versions of its main checkout; each has links of its own. Where the file system refuses
symlinks, the folder that people open is one of hard links, or of copies.
"""

import json
import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

from src.utils.files import link_or_copy, replace_file, share_file
from src.utils.paths import MAIN_CHECKOUT, ROOT, VERSIONS, Experiment
from src.utils.pipeline.manifest import FILE_NAME, Manifest, file_digests, json_digest
from src.utils.pipeline.recipe import Recipe, file_states

from filelock import FileLock

log = logging.getLogger(__name__)
LENGTH = 32  # characters of a digest in names, as in MLflow
BUILDS = "builds"


def version_folder(experiment: Experiment, digest: str) -> Path:
    """The folder of a version, whether it is there or not."""
    return _versions_of(experiment) / digest[:LENGTH]


def find_version(experiment: Experiment, digest: str) -> Manifest | None:
    """The manifest of a version; None if there is none, or several begin like this.

    Args:
        digest: whole, or its beginning.
    """
    found = list(_versions_of(experiment).glob(f"{digest[:LENGTH]}*/{FILE_NAME}")) if digest else []
    return Manifest.of_folder(found[0].parent) if len(found) == 1 else None


def list_versions() -> list[Manifest]:
    """The manifests of all versions, by experiment, the newest first."""
    return [one for folder in sorted(VERSIONS.glob("*/*/")) for one in _read_versions(folder)]


def find_build(experiment: Experiment, fingerprint: str) -> Manifest | None:
    """The manifest of what was built from the same settings, code and inputs; None if it isn't there."""
    file = _build_file(experiment, fingerprint)
    if not file.exists():
        return None
    manifest = Manifest.from_json(json.loads(file.read_text())["manifest"])
    version = version_folder(experiment, manifest.digest)
    return replace(manifest, folder=version.resolve()) if (version / FILE_NAME).exists() else None


def build_lock(experiment: Experiment, fingerprint: str) -> FileLock:
    """The lock of what is built from the same settings, code and inputs: by one process at a time."""
    _versions_of(experiment).mkdir(parents=True, exist_ok=True)
    return FileLock(_draft(experiment, fingerprint).with_suffix(".lock"))


@contextmanager
def open_draft(experiment: Experiment, fingerprint: str) -> Iterator[Path]:
    """Give an empty folder beside the versions, for the one who holds the lock of a build.

    At the end it is deleted, unless `add_version` has moved it; and so are those of killed processes.
    """
    draft = _draft(experiment, fingerprint)
    for other in draft.parent.glob(".*.draft"):
        with suppress(OSError), FileLock(other.with_suffix(".lock"), timeout=0):
            shutil.rmtree(other)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def add_version(folder: Path, manifest: Manifest, recipe: Recipe | None) -> Manifest:
    """Move a finished folder to the versions. It may be on another disk.

    A process that is killed leaves the folder, or the whole version. If the same content is there already,
    the version stays, with the newer manifest.

    Returns:
        The manifest with the folder of the version.
    """
    experiment = Experiment.named(manifest.experiment)
    version = version_folder(experiment, manifest.digest)
    version.parent.mkdir(parents=True, exist_ok=True)
    with _lock_of_all(experiment):
        if manifest.fingerprint:
            _save_build(manifest, recipe)
        if _has_same_files(version, folder, manifest):
            manifest.write(version)
        else:
            shutil.rmtree(version, ignore_errors=True)  # incomplete: somebody deleted files
            with _on_disk_of_versions(folder, manifest) as draft:
                _protect(draft, manifest)
                _share_files(draft, manifest)
                manifest.write(draft)
                draft.rename(version)
    shutil.rmtree(folder, ignore_errors=True)
    return replace(manifest, folder=version.resolve())


def version_in_use(experiment: Experiment) -> Manifest | None:
    """The manifest of the data in use here; None if there are none.

    A plain folder, as earlier versions of this code made them, is taken over: it becomes a version. A
    worktree without data begins with those that its main checkout uses, and with what they were made from.
    """
    manifest = _read(experiment, experiment.data)
    if manifest is None and ROOT != MAIN_CHECKOUT:
        return _begin_with_main_checkout(experiment)
    return manifest


def use_version(experiment: Experiment, manifest: Manifest, recipe: Recipe | None = None) -> None:
    """Make a version the one in use here: the link is replaced in one step.

    Args:
        recipe: the one by which it is found out of date; that of its build, if it is not given.
    """
    _take_over(experiment, experiment.data)
    recipe = recipe or _recipe_of_build(manifest)
    with _link_lock(experiment.data):
        if Manifest.of_folder(manifest.folder) not in (None, manifest):
            with _lock_of_all(experiment):
                manifest.write(manifest.folder)  # it is that of another build with the same content
        _link(experiment.data, manifest.folder)
        if recipe is not None:
            recipe.save(experiment, manifest)


def _read(experiment: Experiment, folder: Path) -> Manifest | None:
    _take_over(experiment, folder)
    manifest = Manifest.of_folder(folder)
    if manifest is None or folder.is_symlink():
        return manifest
    return find_version(experiment, manifest.digest)  # of which the folder is a copy


def _take_over(experiment: Experiment, folder: Path) -> None:
    """Make a plain folder a version, whatever is in it; it is in use then if it had a manifest."""
    if not _is_plain(experiment, folder):
        return
    with _link_lock(folder):
        if not _is_plain(experiment, folder):  # another process was faster
            return
        claimed, files = Manifest.of_folder(folder), file_digests(folder)
        digest = json_digest(files)
        if claimed is not None and claimed.digest == digest:
            manifest, recipe = claimed, Recipe.load(experiment, claimed, folder)
        else:
            metadata = claimed.metadata if claimed is not None else {}
            manifest, recipe = Manifest(str(experiment), "", digest, files, "", metadata), None
        version = add_version(folder, manifest, recipe)
        if claimed is not None:
            _link(folder, version.folder)
    log.info(_taken_over(claimed, manifest))


def _taken_over(claimed: Manifest | None, manifest: Manifest) -> str:
    if claimed is None:
        what = "files without manifest.json"
    elif claimed.digest != manifest.digest:
        what = "the data, which were edited after they were built,"
    else:
        what = "the data"
    version = f"_data/versions/{manifest.experiment}/{manifest.digest[:LENGTH]}"
    return f"{manifest.experiment}: {what} are kept as {version}"


def _is_plain(experiment: Experiment, folder: Path) -> bool:
    """Whether it is neither a link nor a copy of a version."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    manifest = Manifest.of_folder(folder)
    version = find_version(experiment, manifest.digest) if manifest is not None else None
    return version is None or _states(version.folder) != _states(folder)


def _states(folder: Path) -> dict[str, str]:
    return {name: state for name, state in file_states(folder).items() if name != FILE_NAME}


def _begin_with_main_checkout(experiment: Experiment) -> Manifest | None:
    manifest = _read(experiment, MAIN_CHECKOUT / experiment.data.relative_to(ROOT))
    if manifest is None:
        return None
    use_version(experiment, manifest)
    recipe = Recipe.load(experiment, manifest)
    for source in recipe.sources if recipe else ():
        version_in_use(Experiment.named(source))
    log.info("%s: linked from %s", experiment, MAIN_CHECKOUT)
    return manifest


def _link_lock(link: Path) -> FileLock:
    link.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(link.with_name(f".{link.name}.lock"))


def _link(link: Path, folder: Path) -> None:
    """Link a folder; where the file system refuses symlinks, by a folder of hard links, or of copies."""
    draft = link.with_name(f".{link.name}.link")
    _remove(draft)
    try:
        draft.symlink_to(_target(folder, link), target_is_directory=True)
    except (OSError, NotImplementedError):
        shutil.copytree(folder, draft, symlinks=True, copy_function=link_or_copy)
    if not (link.is_symlink() and draft.is_symlink()):
        _remove(link)
    draft.replace(link)


def _remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def _versions_of(experiment: Experiment) -> Path:
    return VERSIONS / experiment.stage / experiment.name


def _lock_of_all(experiment: Experiment) -> FileLock:
    return FileLock(_versions_of(experiment) / ".lock")


def _read_versions(folder: Path) -> Iterator[Manifest]:
    """The versions of an experiment, the newest first; drafts begin with a dot."""
    files = sorted(folder.glob(f"[!.]*/{FILE_NAME}"), key=lambda file: -file.stat().st_mtime)
    yield from filter(None, (Manifest.of_folder(file.parent) for file in files))


def _draft(experiment: Experiment, fingerprint: str) -> Path:
    return _versions_of(experiment) / f".{fingerprint[:LENGTH]}.draft"


def _build_file(experiment: Experiment, fingerprint: str) -> Path:
    return _versions_of(experiment) / BUILDS / f"{fingerprint[:LENGTH]}.json"


def _save_build(manifest: Manifest, recipe: Recipe | None) -> None:
    build = {"manifest": manifest.to_json(), "recipe": asdict(recipe) if recipe else None}
    file = _build_file(Experiment.named(manifest.experiment), manifest.fingerprint)
    with replace_file(file) as draft:
        draft.write_text(json.dumps(build, indent=2) + "\n")


def _recipe_of_build(manifest: Manifest) -> Recipe | None:
    file = _build_file(Experiment.named(manifest.experiment), manifest.fingerprint)
    values = json.loads(file.read_text())["recipe"] if file.exists() else None
    return Recipe.from_json(values) if values else None


def _has_same_files(version: Path, folder: Path, manifest: Manifest) -> bool:
    """Whether a version is there with all of its files; by their sizes, as they are read-only."""
    if not (version / FILE_NAME).exists():
        return False
    pairs = [(version / name, folder / name) for name in manifest.files]
    return all(one.is_file() and one.stat().st_size == two.stat().st_size for one, two in pairs)


@contextmanager
def _on_disk_of_versions(folder: Path, manifest: Manifest) -> Iterator[Path]:
    """The folder itself, or a copy beside the versions, if the folder is on another disk."""
    experiment = Experiment.named(manifest.experiment)
    if folder.stat().st_dev == _versions_of(experiment).stat().st_dev:
        yield folder
        return
    key = manifest.digest
    with build_lock(experiment, key), open_draft(experiment, key) as draft:
        shutil.copytree(folder, draft, symlinks=True, dirs_exist_ok=True)
        yield draft


def _protect(folder: Path, manifest: Manifest) -> None:
    """Make files read-only, except one that has another name outside: a hard link of the stage's own."""
    for name in manifest.files:
        file = folder / name
        status = file.lstat()
        if not file.is_symlink() and status.st_nlink == 1:
            with suppress(OSError):  # a file system without permissions
                file.chmod(status.st_mode & 0o555)


def _share_files(folder: Path, manifest: Manifest) -> None:
    """Replace files that another version of the experiment has by hard links of those."""
    missing = defaultdict(list)
    for name, digest in manifest.files.items():
        missing[digest].append(folder / name)
    folder_of_all = _versions_of(Experiment.named(manifest.experiment))
    for other in _read_versions(folder_of_all):
        for name, digest in other.files.items():
            for file in missing.pop(digest, ()):
                share_file(other.folder / name, file, folder_of_all / ".shared")
        if not missing:
            return


def _target(folder: Path, link: Path) -> Path:
    """Where a link leads: relative inside `_data` of the main checkout, which may be moved or copied."""
    parent, data = link.parent.resolve(), VERSIONS.parent.resolve()
    is_inside = parent.is_relative_to(data) and folder.is_relative_to(data)
    return Path(os.path.relpath(folder, parent)) if is_inside else folder
