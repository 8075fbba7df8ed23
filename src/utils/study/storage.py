"""Opens Optuna's storage: one SQLite file for all studies, or any other database (hydra.sweeper.storage).

A database server has few connections, for all machines together: a sweep keeps one, and its trials keep none.
"""

import time
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from src.utils.errors import UserError, first_line
from src.utils.paths import STUDIES
from src.utils.process import HEARTBEAT_INTERVAL, HEARTBEAT_LIMIT
from src.utils.store.location import SQLITE, mask_password
from src.utils.store.sqlite_file import check_database, create_database
from src.utils.study.heartbeat import HeartbeatStorage
from src.utils.study.study import requeue_trial

import sqlalchemy
from filelock import FileLock
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError
from sqlalchemy.pool import NullPool

SERVER_TIMEOUT = 60.0  # seconds for a server that restarts, or has no connection to spare
NO_POOL = {"poolclass": NullPool}  # a new connection for each use
# All threads share it, one after the other. It is replaced where the server has ended it.
ONE_CONNECTION = {
    "pool_size": 1,
    "max_overflow": 0,
    "pool_timeout": 2 * SERVER_TIMEOUT,
    "pool_pre_ping": True,
}
KEEPALIVES = {"idle": 30, "interval": 10, "count": 3}  # seconds, and probes
IN_MEMORY = ("sqlite://", "sqlite:///", "sqlite:///:memory:")


def open_storage(url: str | None = None, tables_exist: bool = False) -> RDBStorage:
    """Open a storage of Optuna.

    Args:
        url: any URL that Optuna takes; by default the SQLite file `logs/optuna/optuna.db`.
        tables_exist: create and check no tables. The processes of trials need not: their sweep has done it.

    Raises:
        UserError: the storage is in memory, or can't be opened, or is a SQLite file in WAL mode on a network
            file system.
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


def engine_of(storage: BaseStorage) -> sqlalchemy.Engine | None:
    """The database of a storage, also of the one that Optuna gives to a study, which caches."""
    engine: sqlalchemy.Engine | None = getattr(
        getattr(storage, "_backend", storage), "engine", None
    )
    return engine


def _open_database(url: str, tables_exist: bool) -> RDBStorage:
    if url.startswith(SQLITE):
        if not tables_exist:
            _create_sqlite(Path(url.removeprefix(SQLITE)))
        storage = _connect(url, {"connect_args": {"timeout": 60}}, tables_exist)
        _begin_immediate(storage.engine)
        return storage
    if tables_exist:
        storage = _connect(url, NO_POOL, tables_exist=True)
    else:
        _create_tables(url)
        storage = _connect(url, ONE_CONNECTION, tables_exist=True)
        _drop_lost_machines(storage.engine)
    _wait_for_server(storage.engine)
    return storage


def _connect(url: str, options: dict[str, Any], tables_exist: bool) -> RDBStorage:
    return HeartbeatStorage(
        url,
        options,
        skip_compatibility_check=tables_exist,
        skip_table_creation=tables_exist,
        heartbeat_interval=HEARTBEAT_INTERVAL,
        grace_period=HEARTBEAT_LIMIT,
        heartbeat_stale_trial_callback=requeue_trial,
    )


def _create_tables(url: str) -> None:
    """Create the tables, or check them; for this, Optuna needs two connections."""
    try:
        storage = _connect(url, NO_POOL, tables_exist=False)
    except (IntegrityError, ProgrammingError):  # another machine was creating the same tables
        time.sleep(1)
        storage = _connect(url, NO_POOL, tables_exist=False)
    storage.engine.dispose()


def _wait_for_server(engine: sqlalchemy.Engine) -> None:
    """Let a connection that is refused be tried again: the server has answered once."""

    @sqlalchemy.event.listens_for(engine, "do_connect")
    def connect(dialect: Any, _: Any, arguments: list[Any], options: dict[str, Any]) -> Any:
        end = time.monotonic() + SERVER_TIMEOUT
        while True:
            try:
                return dialect.connect(*arguments, **options)
            except dialect.loaded_dbapi.OperationalError:
                if time.monotonic() > end:
                    raise
                time.sleep(1)


def _drop_lost_machines(engine: sqlalchemy.Engine) -> None:
    """Let PostgreSQL end the session of a machine that is gone, and its locks, within a minute, not hours."""

    if engine.dialect.name != "postgresql":
        return

    @sqlalchemy.event.listens_for(engine, "connect")
    def set_keepalives(connection: Any, _: Any) -> None:
        with connection.cursor() as cursor:
            for name, value in KEEPALIVES.items():
                cursor.execute(f"SET tcp_keepalives_{name} = {value}")
        connection.commit()


def _create_sqlite(database: Path) -> None:
    """Create the file, in one process only."""
    check_database(database)
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
