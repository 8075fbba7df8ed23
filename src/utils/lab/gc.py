"""What runs left behind that nobody needs any more, as `lab gc` shows and removes it.

Artifacts of runs that were deleted, or of which the store knows nothing; folders in outputs/ and
multirun/ that no run names; checkpoints of finished runs beside the best and the last. The best of a
study is never touched, nor anything that changed within the last hour: it may be about to become a run.
"""

import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from src.utils.paths import ROOT, STAGES, display_path
from src.utils.store.location import local_database
from src.utils.store.reader import RunReader, RunRecord
from src.utils.terminal import format_size

from rich import box, get_console
from rich.markup import escape
from rich.table import Table

FRESH = 3600.0  # seconds
RUN_ID = re.compile(r"[0-9a-f]{32}")
OUTPUTS = (ROOT / "outputs", ROOT / "multirun")
MOST_LINES = 10  # of one kind


@dataclass(frozen=True)
class UnusedFile:
    """A file or folder, and why it is not needed."""

    kind: str
    path: Path

    @property
    def size(self) -> int:
        files = self.path.rglob("*") if self.path.is_dir() else [self.path]
        return sum(file.lstat().st_size for file in files if not file.is_dir())

    def remove(self) -> None:
        """Remove it, and the folder of a day that is empty then."""
        if self.path.is_dir():
            shutil.rmtree(self.path)
        else:
            self.path.unlink()
        if self.path.is_relative_to(ROOT) and not any(self.path.parent.iterdir()):
            self.path.parent.rmdir()


def collect(reader: RunReader) -> list[UnusedFile]:
    """Everything that can go."""
    folders = list(_run_folders())  # before the runs are read: a new run is known before its folder
    runs, deleted = reader.runs(), reader.runs(deleted=True)
    kept = set(reader.column("tags", "best.run_id").values())
    return [
        *_artifacts([one for one in deleted if one.id not in kept], "artifacts of deleted runs"),
        *_unknown(folders, {one.id for one in runs + deleted}),
        *_outputs(reader, {one.id for one in runs}),
        *_checkpoints([one for one in runs if one.id not in kept]),
    ]


def _artifacts(records: list[RunRecord], kind: str) -> Iterator[UnusedFile]:
    for one in records:
        folder = Path(one.artifact_uri)
        if _is_ours(folder) and folder.is_dir() and RUN_ID.fullmatch(folder.parent.name):
            yield UnusedFile(kind, folder.parent)


def _run_folders() -> Iterator[Path]:
    """The folders of the local store that are named for a run."""
    database = local_database()
    if database is not None:
        folders = database.parent.glob("*/*/*/")
        yield from (path for path in folders if RUN_ID.fullmatch(path.name))


def _unknown(folders: list[Path], known: set[str]) -> Iterator[UnusedFile]:
    for folder in folders:
        if folder.name not in known and not _is_fresh(folder):
            yield UnusedFile("artifacts without a run", folder)


def _outputs(reader: RunReader, runs: set[str]) -> Iterator[UnusedFile]:
    """Folders of a command that made no run, or whose runs were deleted."""
    named = reader.column("tags", "hydra.output").items()
    needed = {ROOT / str(path) for run_id, path in named if run_id in runs}
    needed |= {parent for path in needed for parent in path.parents}
    for top in OUTPUTS:
        places = (folder for stage in STAGES for folder in sorted(top.glob(f"{stage}/*/*/*/")))
        for folder in places:  # experiment, day, moment
            if folder not in needed and not _is_fresh(folder):
                yield UnusedFile(f"{top.name}/ without a run", folder)


def _checkpoints(records: list[RunRecord]) -> Iterator[UnusedFile]:
    """Of finished runs; one that was stopped may need any of its checkpoints to go on."""
    for one in records:
        folder = Path(one.artifact_uri) / "checkpoints"
        if one.status == "FINISHED" and _is_ours(folder):
            files = sorted(folder.glob("*.ckpt"))
            needed = {"last", "best"} if any(file.stem == "best" for file in files) else {"last"}
            for file in files if "best" in needed else []:
                if file.stem not in needed:
                    yield UnusedFile("checkpoints beside the best and the last", file)


def _is_ours(path: Path) -> bool:
    """Inside the local store: whatever a store says, nothing else is removed."""
    database = local_database()
    return database is not None and path.is_relative_to(database.parent)


def _is_fresh(folder: Path) -> bool:
    times = (path.lstat().st_mtime for path in (folder, *folder.rglob("*")))
    return time.time() - max(times) < FRESH


def print_unused(found: list[UnusedFile]) -> None:
    """Print what would go, by kind, with sizes."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("what", overflow="fold")
    table.add_column("count", justify="right")
    table.add_column("size", justify="right")
    for kind in dict.fromkeys(one.kind for one in found):
        some = [one for one in found if one.kind == kind]
        total = format_size(sum(one.size for one in some))
        table.add_row(f"[bold]{kind}[/]", f"[bold]{len(some)}[/]", f"[bold]{total}[/]")
        for one in some[:MOST_LINES]:
            table.add_row(f"  {escape(str(display_path(one.path)))}", "", format_size(one.size))
        if len(some) > MOST_LINES:
            table.add_row(f"  … and {len(some) - MOST_LINES} more")
    get_console().print(table, highlight=False)
