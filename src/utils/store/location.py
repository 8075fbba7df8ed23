"""Where the MLflow store is: `logs/mlruns/mlflow.db`, or what `MLFLOW_TRACKING_URI` names."""

import os
import re
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

from src.utils.paths import LOGS

OWN = LOGS / "mlruns" / "mlflow.db"
SQLITE = "sqlite:///"


def tracking_uri() -> str:
    """As MLflow wants it; a file by its full path, whatever folder the next process is in."""
    database = local_database()
    return f"{SQLITE}{database}" if database else os.environ["MLFLOW_TRACKING_URI"]


def is_server(uri: str) -> bool:
    """Whether it is one that keeps the artifacts, too."""
    return uri.startswith("http")


def without_password(url: str) -> str:
    """An address as it may be shown."""
    return re.sub(r"(//[^:/@]*):[^/@]*@", r"\1:***@", url)


def local_database() -> Path | None:
    """The SQLite file; None for a store that is a server or a shared database."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{OWN}"
    return Path(uri.removeprefix(SQLITE)).resolve() if uri.startswith(SQLITE) else None


def old_homes(locations: Iterable[str]) -> set[str]:
    """Where artifacts of our own store are remembered to be, other than where it is.

    MLflow stores absolute paths, so a repository that was moved would lose every artifact.
    """
    if local_database() != OWN.resolve():
        return set()
    marker, here = "/logs/mlruns/", str(OWN.resolve().parent)
    homes = {path[: path.rindex(marker)] + marker[:-1] for path in locations if marker in path}
    return homes - {here}


def create(database: Path, make_tables: Callable[[Path], None]) -> None:
    """Made beside its place and moved there whole: no process sees half of its tables. In WAL mode:
    readers don't block the one writer."""
    draft = database.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    make_tables(draft)
    with closing(sqlite3.connect(draft)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    draft.rename(database)


# MERGED store/sqlite: SQLite files that many processes open.
