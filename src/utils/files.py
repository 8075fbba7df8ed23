"""Files that are replaced in one step, and so are never half written; and files that are stored once."""

import filecmp
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replace_file(file: Path) -> Iterator[Path]:
    """Give a draft to write to; at the end it replaces the file. Folders are made where they are missing.

    A process that is killed at any moment leaves the old file, or the complete new one.
    """
    draft = file.with_name(f".{file.name}")  # with the same suffix: NumPy adds one that is missing
    draft.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield draft
        draft.replace(file)
    finally:
        if draft.is_file():
            draft.unlink()


def link_or_copy(source: str | Path, copy: str | Path) -> None:
    """Give a file a second name; where the file system has no hard links, or for another disk, copy it."""
    try:
        os.link(source, copy)
    except OSError:
        shutil.copy2(source, copy)


def share_file(source: Path, file: Path, draft: Path) -> None:
    """Replace a file by a hard link of an equal one. It stays where that can't be done, or bytes differ.

    Args:
        draft: a free name on the same disk.
    """
    with suppress(
        OSError
    ):  # the source is gone, or the file system has no hard links, or not so many
        if file.is_symlink() or source.is_symlink() or not filecmp.cmp(source, file, shallow=False):
            return
        draft.unlink(missing_ok=True)
        draft.hardlink_to(source)
        draft.replace(file)
        draft.unlink(missing_ok=True)  # two names of one file are not replaced
