"""SQLite files that many processes open."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path


def create(database: Path, make_tables: Callable[[Path], None]) -> None:
    """Made beside its place and moved there whole: no process sees half of its tables. In WAL mode:
    readers don't block the one writer."""
    draft = database.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    make_tables(draft)
    with closing(sqlite3.connect(draft)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    draft.rename(database)
