"""Where studies are stored: one SQLite file for all of them, or any other database."""

import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from src.utils.errors import UserError, first_line
from src.utils.paths import STUDIES
from src.utils.store.location import create_database, mask_password
from src.utils.study.study import GRACE_PERIOD, interrupted

import sqlalchemy
from filelock import FileLock
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError

IN_MEMORY = ("sqlite://", "sqlite:///", "sqlite:///:memory:")
HEARTBEAT = 15  # seconds; by it, trials of other machines are known to live


def open_storage(url: str | None = None, ready: bool = False) -> BaseStorage:
    """Any Optuna storage URL; by default one SQLite file in WAL mode for all studies.

    `ready` is for the processes of trials: the sweep has looked after the tables before them.
    """
    url = url or f"sqlite:///{STUDIES}"
    if url in IN_MEMORY:
        raise UserError(f"the study store {url} lies in the memory of one process: name a file")
    try:
        return _database(url, ready)
    except (
        ImportError,
        OSError,
        SQLAlchemyError,
    ) as error:  # no driver, server, permission, folder
        hidden = error.__context__ if isinstance(error, ImportError) else None  # names the driver
        why = getattr(error, "strerror", None) or first_line(hidden or error)
        raise UserError(f"the study store {mask_password(url)} can't be opened: {why}") from None


def _database(url: str, ready: bool) -> RDBStorage:
    options: dict[str, Any] = {}
    if url.startswith("sqlite:///"):
        if not ready:
            _create_once(Path(url.removeprefix("sqlite:///")))
        options = {"connect_args": {"timeout": 60}}
    opened = partial(
        RDBStorage,
        url,
        options,
        skip_compatibility_check=ready,
        skip_table_creation=ready,
        heartbeat_interval=HEARTBEAT,
        grace_period=GRACE_PERIOD,
        heartbeat_stale_trial_callback=interrupted,
    )
    try:
        storage = opened()
    except (IntegrityError, ProgrammingError):  # another machine was creating the same tables
        time.sleep(1)
        storage = opened()
    if storage.engine.dialect.name == "sqlite":
        _lock_first(storage.engine)
    return storage


def _lock_first(engine: sqlalchemy.Engine) -> None:
    """Transactions that take SQLite's lock when they begin: otherwise two workers may read that the
    same trial waits, and both run it."""

    @sqlalchemy.event.listens_for(engine, "connect")
    def leave_transactions_to_us(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    @sqlalchemy.event.listens_for(engine, "begin")
    def begin(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _create_once(database: Path) -> None:
    database.parent.mkdir(parents=True, exist_ok=True)
    if not database.exists():
        with TemporaryFile(dir=database.parent):  # where that can't be, FileLock tries for ever
            pass
    with FileLock(database.with_suffix(".lock")):
        if not database.exists():
            create_database(
                database, lambda draft: RDBStorage(f"sqlite:///{draft}").engine.dispose()
            )
