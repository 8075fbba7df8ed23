"""`lab gc`: find and remove files that no run uses.

Unused are: artifacts of runs that are deleted or unknown to the store, folders in outputs/ and multirun/
that belong to no run, checkpoints of finished runs other than best and last, versions of data that no run
has read or made, the records of builds whose version is gone, and code that was copied for workers that have
ended. Never removed are the best trial of a study, with its members if it is a group, versions that this
checkout or a linked worktree has in use, and folders that changed within the last hour: a run may be about to
start in them.
"""

import json
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.utils.paths import (
    DATA,
    ENVIRONMENTS,
    LOGS,
    MAIN_CHECKOUT,
    ROOT,
    VERSIONS,
    Experiment,
    display_path,
)
from src.utils.pipeline.manifest import FILE_NAME, Manifest
from src.utils.pipeline.versions import BUILDS, LENGTH, list_versions, version_folder
from src.utils.store.location import local_database
from src.utils.store.reader import RunReader
from src.utils.store.record import GROUP, RunRecord
from src.utils.terminal import format_size
from src.utils.workers.code import unused_code

import typer
from rich import box, get_console
from rich.markup import escape
from rich.table import Table

RECENT = 3600.0  # seconds
RUN_ID = re.compile(r"[0-9a-f]{32}")
DAY = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]"  # as in config/utils/hydra.yaml
OUTPUTS = (ROOT / "outputs", ROOT / "multirun")
MOST_LINES = 10  # of one kind in the table


@dataclass(frozen=True)
class UnusedFile:
    """A file or folder that no run uses, and the kind it is listed under."""

    kind: str
    path: Path
    freed: int | None = None  # by removing it, where that is less than the size of its files

    @property
    def size(self) -> int:
        if self.freed is not None:
            return self.freed
        files = self.path.rglob("*") if self.path.is_dir() else [self.path]
        return sum(file.lstat().st_size for file in files if not file.is_dir())

    def remove(self) -> None:
        """Remove it, and its parent folder if that is empty then."""
        if self.path.is_dir():
            shutil.rmtree(self.path)
        else:
            self.path.unlink()
        is_ours = self.path.is_relative_to(ROOT) or self.path.is_relative_to(LOGS)
        if is_ours and not any(self.path.parent.iterdir()):
            self.path.parent.rmdir()


def find_unused(reader: RunReader) -> list[UnusedFile]:
    """All files and folders that no run uses."""
    folders = list(_run_folders())  # before the runs are read: a new run is known before its folder
    runs, deleted = reader.runs(), reader.runs(deleted=True)
    best_trials = set(reader.column("tags", "best.run_id").values())
    groups = reader.column("tags", GROUP)
    kept = best_trials | {member for member, group in groups.items() if group in best_trials}
    return [
        *_deleted_artifacts([run for run in deleted if run.id not in kept]),
        *_unknown_artifacts(folders, {run.id for run in runs + deleted}),
        *_output_folders(reader, {run.id for run in runs}),
        *_checkpoints([run for run in runs if run.id not in kept]),
        *_versions(reader),
        *_environments(),
        *_code_of_workers(),
    ]


def _run_folders() -> Iterator[Path]:
    """The folders of the local store whose name is a run id."""
    database = local_database()
    if database is not None:
        folders = database.parent.glob("*/*/*/")
        yield from (folder for folder in folders if RUN_ID.fullmatch(folder.name))


def _deleted_artifacts(deleted: list[RunRecord]) -> Iterator[UnusedFile]:
    for run in deleted:
        folder = Path(run.artifact_uri)
        if _in_store(folder) and folder.is_dir() and RUN_ID.fullmatch(folder.parent.name):
            yield UnusedFile("artifacts of deleted runs", folder.parent)


def _unknown_artifacts(folders: list[Path], known: set[str]) -> Iterator[UnusedFile]:
    for folder in folders:
        if folder.name not in known and not _is_recent(folder):
            yield UnusedFile("artifacts without a run", folder)


def _output_folders(reader: RunReader, runs: set[str]) -> Iterator[UnusedFile]:
    """Hydra's folders of commands that made no run, or whose runs are deleted."""
    outputs = reader.column("tags", "hydra.output").items()
    used = {ROOT / str(path) for run_id, path in outputs if run_id in runs}
    used |= {parent for path in used for parent in path.parents}
    for top in OUTPUTS:
        for folder in sorted(top.glob(f"*/*/{DAY}/*/")):  # stage, experiment, day, time
            if folder not in used and not _is_recent(folder):
                yield UnusedFile(f"{top.name}/ without a run", folder)


def _checkpoints(runs: list[RunRecord]) -> Iterator[UnusedFile]:
    """Of finished runs: one that was stopped may need any of its checkpoints to resume."""
    for run in runs:
        folder = Path(run.artifact_uri) / "checkpoints"
        if run.status != "FINISHED" or not _in_store(folder) or not (folder / "best.ckpt").exists():
            continue
        for file in sorted(folder.glob("*.ckpt")):
            if file.stem not in ("best", "last"):
                yield UnusedFile("checkpoints other than best and last", file)


def _versions(reader: RunReader) -> Iterator[UnusedFile]:
    """Versions that no run names and no checkout has in use, and the records of builds without a version."""
    named = {(used.name, used.digest) for uses in reader.all_datasets().values() for used in uses}
    named |= {(data.experiment, data.digest[:LENGTH]) for data in _data_in_use()}
    versions = list_versions()
    unused = [
        one
        for one in versions
        if (one.experiment, one.digest[:LENGTH]) not in named and not _is_recent(one.folder)
    ]
    seen: Counter[tuple[int, int]] = Counter()
    for one in unused:
        yield UnusedFile("versions of data that no run names", one.folder, _freed(one.folder, seen))
    kept = {one.folder for one in versions} - {one.folder for one in unused}
    for file in sorted(VERSIONS.glob(f"*/*/{BUILDS}/*.json")):
        if _version_of_build(file) not in kept and not _is_recent(file):
            yield UnusedFile("records of builds whose version is gone", file)


def _version_of_build(file: Path) -> Path:
    manifest = Manifest.from_json(json.loads(file.read_text())["manifest"])
    return version_folder(Experiment.named(manifest.experiment), manifest.digest).resolve()


def _freed(folder: Path, seen: Counter[tuple[int, int]]) -> int:
    """The bytes of the files of which all hard links are in this folder or in those that were seen before."""
    freed = 0
    for file in folder.rglob("*"):
        status = file.lstat()
        if not file.is_dir():
            seen[status.st_dev, status.st_ino] += 1
            is_last = seen[status.st_dev, status.st_ino] == status.st_nlink
            freed += status.st_size * is_last
    return freed


def _data_in_use() -> Iterator[Manifest]:
    """The data that a checkout of this repository has in `_data`: this one, or a linked worktree."""
    for root in {ROOT, MAIN_CHECKOUT, *_worktrees()}:
        for file in root.glob(f"{DATA.name}/*/*/{FILE_NAME}"):
            manifest = Manifest.of_folder(file.parent)
            if manifest is not None:
                yield manifest


def _worktrees() -> list[Path]:
    command = ["git", "-C", str(ROOT), "worktree", "list", "--porcelain", "-z"]
    try:
        lines = subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL).split("\0")
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        return []
    return [Path(line.removeprefix("worktree ")) for line in lines if line.startswith("worktree ")]


def _environments() -> Iterator[UnusedFile]:
    """The packages that `lab rerun --packages` has made: it makes them again."""
    for folder in sorted(ENVIRONMENTS.glob("[!.]*/")):
        if not _is_recent(folder):
            yield UnusedFile("environments of reruns", folder, _freed(folder, Counter()))


def _code_of_workers() -> Iterator[UnusedFile]:
    """Copies of the code, for workers that have ended: a submission makes them again."""
    for folder in unused_code():
        if not _is_recent(folder):
            yield UnusedFile("code of workers that have ended", folder)


def _in_store(path: Path) -> bool:
    """Nothing outside the local store is removed, whatever path a store names."""
    database = local_database()
    return database is not None and path.is_relative_to(database.parent)


def _is_recent(folder: Path) -> bool:
    times = (path.lstat().st_mtime for path in (folder, *folder.rglob("*")))
    return time.time() - max(times) < RECENT


def print_unused(unused: list[UnusedFile]) -> None:
    """Print the files by kind, with their sizes."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("unused", overflow="fold")
    table.add_column("count", justify="right")
    table.add_column("size", justify="right")
    for kind in dict.fromkeys(file.kind for file in unused):
        files = [file for file in unused if file.kind == kind]
        total = format_size(sum(file.size for file in files))
        table.add_row(f"[bold]{kind}[/]", f"[bold]{len(files)}[/]", f"[bold]{total}[/]")
        for file in files[:MOST_LINES]:
            table.add_row(f"  {escape(str(display_path(file.path)))}", "", format_size(file.size))
        if len(files) > MOST_LINES:
            table.add_row(f"  … and {len(files) - MOST_LINES} more")
    get_console().print(table, highlight=False)


def offer_removal(unused: list[UnusedFile], yes: bool) -> None:
    """Print the files, and remove them where the answer is yes.

    Args:
        yes: remove without asking
    """
    if not unused:
        print("nothing to remove")
        return
    print_unused(unused)
    if yes or _confirm("Remove all of it?"):
        _remove(unused)
        print("removed")
    else:
        print("nothing was removed; lab gc --yes doesn't ask")


def _confirm(question: str) -> bool:
    try:
        return typer.confirm(question)
    except typer.Abort:  # no terminal to answer from
        print()
        return False


def _remove(unused: list[UnusedFile]) -> None:
    for file in unused:
        file.remove()


def remove_or_list(unused: list[UnusedFile], yes: bool) -> dict[str, Any]:
    """The same for `lab gc --json`, which never asks: nothing is removed without `yes`."""
    files = [{"kind": one.kind, "path": one.path, "bytes": one.size} for one in unused]
    if yes:
        _remove(unused)
    return {"unused": files, "removed": yes}
