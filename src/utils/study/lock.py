"""The lock of a study: of the processes that share it, one at a time writes about it.

| the study store is   | the lock is                                          | it holds             |
|----------------------|------------------------------------------------------|----------------------|
| SQLite               | a file beside `logs/optuna/optuna.db`                | on this machine      |
| PostgreSQL           | an advisory lock of the server                       | on all machines      |
| any other database   | the same file                                        | on this machine only |
"""

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from src.utils.paths import STUDIES
from src.utils.study.storage import engine_of

import sqlalchemy
from filelock import FileLock
from optuna.storages import BaseStorage

POLL = 0.1  # seconds between two attempts
_this_process = threading.RLock()  # PostgreSQL gives a lock to its own holder once more


def study_lock(name: str, storage: BaseStorage) -> AbstractContextManager[object]:
    """Return the lock of a study, for a `with`. A process that dies loses it.

    Args:
        storage: the study's, as `open_storage` opened it.
    """
    engine = engine_of(storage)
    if engine is not None and engine.dialect.name == "postgresql":
        return _advisory_lock(engine, name)
    STUDIES.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(STUDIES.with_name(f".{name.replace('/', '-')}.lock"))


@contextmanager
def _advisory_lock(engine: sqlalchemy.Engine, name: str) -> Iterator[None]:
    """It belongs to the one connection that the engine keeps, which is in use only while this asks for it:
    the lock costs no connection, and the heartbeats of trials need not wait."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    with _this_process:
        while not _call(engine, "pg_try_advisory_lock", key):
            time.sleep(POLL)
        try:
            yield
        finally:
            _call(engine, "pg_advisory_unlock", key)


def _call(engine: sqlalchemy.Engine, function: str, key: int) -> bool:
    with engine.connect() as connection:
        return bool(connection.scalar(sqlalchemy.text(f"SELECT {function}(:key)"), {"key": key}))
