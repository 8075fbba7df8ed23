"""Files that are replaced in one step, and so are never half written."""

from collections.abc import Iterator
from contextlib import contextmanager
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
