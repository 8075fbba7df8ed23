"""Studies as files: an Optuna study in a SQLite file of its own, read from a storage or merged into one.

The storage is that of this project (`study_storage`) or of another clone. A folder has one file for each
study, so that rsync can copy it; it is replaced in one step.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import quote

from src.utils.files import replace_file
from src.utils.paths import STUDIES
from src.utils.store.location import SQLITE, STUDY_STORE
from src.utils.study.storage import open_storage
from src.utils.study.study import RUN_ID
from src.utils.transfer.merged_study import Number, find_study, merge_study

from filelock import FileLock
from optuna.storages import RDBStorage


def study_storage() -> str:
    """The address of this project's studies: `OPTUNA_STORAGE`, or the SQLite file in `logs/optuna`."""
    return os.environ.get(STUDY_STORE) or f"{SQLITE}{STUDIES}"


def study_file(folder: Path, name: str) -> Path:
    """The file of a study in a folder of studies."""
    return folder / f"{quote(name, safe='+=,@ ')}.db"


def read_study(url: str, name: str, draft: Path) -> bool:
    """Write a study with its trials to a new SQLite file; False if the storage has no such study.

    Args:
        url: of a storage of Optuna, as `hydra.sweeper.storage` takes it.

    Raises:
        UserError: the storage can't be opened.
    """
    if _is_missing(url):
        return False
    with _storage(url) as source:
        if find_study(source, name) is None:
            return False
        with _storage_in(draft) as target:
            merge_study(name, source, target)
    return True


def write_study(url: str, name: str, file: Path, number: Number = str) -> bool:
    """Merge the SQLite file of a study into a storage; False if nothing was to be done.

    Args:
        number: gives the number of an experiment in the MLflow store to which the links in notes lead.

    Raises:
        UserError: the storage can't be opened.
    """
    with (
        _lock(url, name),
        _copy(file) as draft,
        _storage_in(draft) as source,
        _storage(url) as target,
    ):
        return merge_study(name, source, target, number)


def run_and_number(url: str, name: str) -> tuple[str, int] | None:
    """The run of a study, and its number in addresses of optuna-dashboard; None if there is no such study.

    Raises:
        UserError: the storage can't be opened.
    """
    if _is_missing(url):
        return None
    with _storage(url) as storage:
        study = find_study(storage, name)
        return (str(study.user_attrs.get(RUN_ID, "")), study._study_id) if study else None


def read_study_file(folder: Path, name: str, draft: Path) -> bool:
    """Copy the file of a study in a folder; False if there is none."""
    present = study_file(folder, name)
    if present.exists():
        shutil.copyfile(present, draft)
    return present.exists()


def write_study_file(folder: Path, name: str, file: Path) -> bool:
    """Merge the SQLite file of a study into its file in a folder, which is replaced in one step.

    Returns:
        False if nothing was to be done.
    """
    present = study_file(folder, name)
    with _copy(file) as new, _copy(present) as draft:
        with _storage_in(new) as source, _storage_in(draft) as target:
            changed = merge_study(name, source, target)
        if changed:
            with replace_file(present) as replacement:
                shutil.copyfile(draft, replacement)
    return changed


def _is_missing(url: str) -> bool:
    return url.startswith(SQLITE) and not Path(url.removeprefix(SQLITE)).exists()


@contextmanager
def _copy(file: Path) -> Iterator[Path]:
    """A copy on this machine's disk: SQLite needs locks, which a network or a read-only medium may lack."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "study.db"
        if file.exists():
            shutil.copyfile(file, copy)
        yield copy


def _storage_in(file: Path) -> AbstractContextManager[RDBStorage]:
    """A study's own file, which is made if it is missing; not in WAL mode, so that it stays one file."""
    return _closing(RDBStorage(f"{SQLITE}{file}"))


def _storage(url: str) -> AbstractContextManager[RDBStorage]:
    storage = open_storage(url)
    assert isinstance(storage, RDBStorage)  # `open_storage` makes no other
    return _closing(storage)


@contextmanager
def _closing(storage: RDBStorage) -> Iterator[RDBStorage]:
    try:
        yield storage
    finally:
        storage.scoped_session.remove()
        storage.engine.dispose()


def _lock(url: str, name: str) -> AbstractContextManager[Any]:
    """Of two transfers into one file the second waits."""
    if not url.startswith(SQLITE):
        return nullcontext()
    database = Path(url.removeprefix(SQLITE))
    database.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(database.with_name(f".{name.replace('/', '-')}.transfer.lock"))
