"""Opens Optuna's storage: one SQLite file for all studies, or any other database (hydra.sweeper.storage)."""

import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from src.utils.errors import UserError, first_line
from src.utils.paths import STUDIES
from src.utils.store.location import create_database, mask_password
from src.utils.study.study import GRACE_PERIOD, requeue_trial

import sqlalchemy
from filelock import FileLock
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError

IN_MEMORY = ("sqlite://", "sqlite:///", "sqlite:///:memory:")
HEARTBEAT_INTERVAL = 15  # seconds


def open_storage(url: str | None = None, tables_exist: bool = False) -> BaseStorage:
    """Open a storage of Optuna.

    Args:
        url: any URL that Optuna takes; by default the SQLite file `logs/optuna/optuna.db`.
        tables_exist: create and check no tables. The processes of trials need not: their sweep has done it.

    Raises:
        UserError: the storage is in memory, or can't be opened.
    """
    url = url or f"sqlite:///{STUDIES}"
    if url in IN_MEMORY:
        raise UserError(f"the study store {url} lies in the memory of one process: name a file")
    try:
        return _open_database(url, tables_exist)
    except (ImportError, OSError, SQLAlchemyError) as error:
        # No driver (the context of the error names it), no server, no permission, no folder
        cause = error.__context__ if isinstance(error, ImportError) else None
        why = getattr(error, "strerror", None) or first_line(cause or error)
        raise UserError(f"the study store {mask_password(url)} can't be opened: {why}") from None


def _open_database(url: str, tables_exist: bool) -> RDBStorage:
    options: dict[str, Any] = {}
    if url.startswith("sqlite:///"):
        if not tables_exist:
            _create_sqlite(Path(url.removeprefix("sqlite:///")))
        options = {"connect_args": {"timeout": 60}}
    connect = partial(
        RDBStorage,
        url,
        options,
        skip_compatibility_check=tables_exist,
        skip_table_creation=tables_exist,
        heartbeat_interval=HEARTBEAT_INTERVAL,
        grace_period=GRACE_PERIOD,
        heartbeat_stale_trial_callback=requeue_trial,
    )
    try:
        storage = connect()
    except (IntegrityError, ProgrammingError):  # another machine was creating the same tables
        time.sleep(1)
        storage = connect()
    if storage.engine.dialect.name == "sqlite":
        _begin_immediate(storage.engine)
    return storage


def _create_sqlite(database: Path) -> None:
    """Create the file in WAL mode, in one process only."""
    database.parent.mkdir(parents=True, exist_ok=True)
    if not database.exists():
        with TemporaryFile(dir=database.parent):  # FileLock waits for ever in a read-only folder
            pass
    with FileLock(database.with_suffix(".lock")):
        if not database.exists():
            create_database(
                database, lambda draft: RDBStorage(f"sqlite:///{draft}").engine.dispose()
            )


def _begin_immediate(engine: sqlalchemy.Engine) -> None:
    """Make each transaction take SQLite's lock when it begins: otherwise two processes can both read that
    a trial is waiting, and both run it."""

    @sqlalchemy.event.listens_for(engine, "connect")
    def disable_driver_transactions(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    @sqlalchemy.event.listens_for(engine, "begin")
    def begin(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
