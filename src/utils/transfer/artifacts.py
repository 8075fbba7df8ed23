"""Copying the files of a run: those that are there already, with size and time, are left out."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from src.utils.files import replace_file
from src.utils.transfer.place import Copied, Report

# How exactly file systems keep the time of a file, in nanoseconds: ext4, NTFS, macOS, exFAT, others, FAT
RESOLUTIONS = (1, 100, 1000, 10**7, 10**9, 2 * 10**9)


def copy_files(source: Path, target: Path, report: Report) -> Copied:
    """Copy the files of a folder into another, each in one step and with its time.

    Nothing is removed. A file that disappears meanwhile is left out: a run that goes on replaces checkpoints.
    """
    copied = Copied()
    for path in list_files(source):
        size = _copy_file(source / path, target / path)
        if size is not None:
            report(size)
            copied = copied.plus(Copied(1, size))
    return copied


def list_files(folder: Path) -> Iterator[Path]:
    """The relative paths of all files in a folder, without those that are being written."""
    for place, _, names in os.walk(folder):
        paths = (Path(place, name).relative_to(folder) for name in sorted(names))
        yield from (path for path in paths if not _is_draft(path))


def _is_draft(path: Path) -> bool:
    """Whether it is a file that is being written (`replace_file`); the code of a run may have dotfiles."""
    return path.name.startswith(".") and path.parts[0] != "source"


def _copy_file(file: Path, copy: Path) -> int | None:
    """The number of bytes that were copied; None if nothing was to be done."""
    try:
        if _is_unchanged(file, copy):
            return None
        with replace_file(copy) as draft:
            shutil.copy2(file, draft)
            return draft.stat().st_size
    except FileNotFoundError:
        if file.exists():
            raise
        return None


def _is_unchanged(file: Path, copy: Path) -> bool:
    if not copy.exists():
        return False
    ours, theirs = file.stat(), copy.stat()
    return ours.st_size == theirs.st_size and _same_time(ours.st_mtime_ns, theirs.st_mtime_ns)


def _same_time(ours: int, theirs: int) -> bool:
    """Whether one of two times is the other, as a file system keeps it that is less exact."""
    return any(
        ours // unit == theirs // unit and 0 in (ours % unit, theirs % unit) for unit in RESOLUTIONS
    )
