"""One process at a time writes to a place; another one says that it waits."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

PATIENCE = 2.0  # seconds


@contextmanager
def writer_lock(file: Path, name: str) -> Iterator[None]:
    """Hold a lock file.

    Args:
        name: of the place, for the message
    """
    lock = FileLock(file)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        print(f"another process brings runs to {name}: waiting until it has ended")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
