"""SQLite files that many processes use: the default store of runs, and that of studies.

They are in WAL mode, in which readers don't block the one writer. WAL needs memory that all processes share,
so on a network file system two machines would damage the file: there, new files have SQLite's older mode.
"""

import logging
import shlex
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from src.utils.errors import UserError

import psutil

log = logging.getLogger(__name__)
# Beginnings of the types of network file systems
NETWORK = (
    *(
        "nfs",
        "cifs",
        "smb",
        "lustre",
        "gpfs",
        "beegfs",
        "ceph",
        "gluster",
        "afs",
        "panfs",
        "wekafs",
    ),
    *("orangefs", "pvfs2", "fuse.sshfs", "fuse.ceph", "fuse.gluster", "fuse.juicefs"),
)


def create_database(database: Path, make_tables: Callable[[Path], None]) -> None:
    """Create a SQLite file that many processes use.

    The file is made beside its final path and then moved there: no process sees half of its tables.

    Args:
        database: the final path.
        make_tables: is called with the path of the draft.
    """
    draft = database.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    make_tables(draft)
    network = network_of(database)
    with closing(sqlite3.connect(draft)) as connection:
        connection.execute(f"PRAGMA journal_mode={'DELETE' if network else 'WAL'}")
    draft.rename(database)
    if network:
        log.warning(
            "%s is on a network file system (%s): use it from one machine at a time; several need a database "
            "server (OPTUNA_STORAGE, MLFLOW_TRACKING_URI)",
            *(database, network),
        )


def check_database(database: Path) -> None:
    """Check that a SQLite file, where it exists, is not in WAL mode on a network file system.

    Raises:
        UserError: it is; the message has the command that changes it.
    """
    network = network_of(database) if database.exists() else ""
    if network and _has_wal(database):
        code = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('PRAGMA journal_mode=DELETE')"
        raise UserError(
            f"{database} is on a network file system ({network}) in SQLite's WAL mode, which works on one "
            "machine's own disk alone; when no run uses it, change it with: "
            f'python -c "{code}" {shlex.quote(str(database))}'
        )


def network_of(path: Path) -> str:
    """The type of the network file system on which a path lies, such as nfs4; empty for a disk."""
    path, found, kind = path.resolve(), Path(), ""
    for mounted in psutil.disk_partitions(all=True):
        place = Path(mounted.mountpoint)
        if path.is_relative_to(place) and len(place.parts) >= len(
            found.parts
        ):  # the last one counts
            found, kind = place, mounted.fstype
    return kind if kind.startswith(NETWORK) else ""


def _has_wal(database: Path) -> bool:
    """As SQLite says: where a process opens the file by itself and closes it, its connections lose locks
    (sqlite.org/howtocorrupt.html)."""
    with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as store:
        return bool(store.execute("PRAGMA journal_mode").fetchone() == ("wal",))
