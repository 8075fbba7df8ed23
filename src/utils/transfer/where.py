"""What WHERE means in `lab push WHERE` and `lab pull WHERE`."""

from pathlib import Path

from src.utils.errors import UserError
from src.utils.paths import LOGS, find_main_checkout
from src.utils.transfer.database import STORE, DatabasePlace
from src.utils.transfer.folder import RUNS, FolderPlace
from src.utils.transfer.place import Place

ENGINE = Path("src", "utils", "paths.py")  # by it a folder is another clone


def own_place() -> Place:
    """The store of this project.

    Raises:
        UserError: it can't be opened.
    """
    return DatabasePlace.own()


def source_place(where: str) -> Place:
    """The place that runs are to come from.

    Raises:
        UserError: there is no such place, it is this project itself, or it has no runs.
    """
    folder = _folder(where)
    if not folder.is_dir():
        raise UserError(f"{where} does not exist, or is no folder: nothing can be pulled from it")
    database = _database(folder)
    if database is not None and database.exists():
        return DatabasePlace.of_folder(where, database)
    if database is None and (folder / RUNS).is_dir():
        return FolderPlace(where, folder)
    raise UserError(
        f"{where} has no runs: neither {RUNS}/, as lab push writes it, nor {STORE} of a project"
    )


def target_place(where: str) -> Place:
    """The place that runs are to go to. A folder that does not exist yet becomes an exchange folder.

    Raises:
        UserError: it is this project itself, or can't become an exchange folder.
    """
    folder = _folder(where)
    database = _database(folder)
    if database is not None:
        return DatabasePlace.of_folder(where, database)
    if folder.is_file():
        raise UserError(f"{where} is a file: name a folder")
    if not folder.parent.is_dir():
        raise UserError(f"{folder.parent} does not exist: make it, or is a disk not there?")
    is_other = folder.is_dir() and any(folder.iterdir()) and not (folder / RUNS).is_dir()
    if is_other:
        raise UserError(
            f"{where} holds other things than runs: name a new folder in it, such as {where}/runs-of-mine"
        )
    return FolderPlace(where, folder)


def _folder(where: str) -> Path:
    folder = Path(where).expanduser().absolute()
    logs = find_main_checkout(folder) / "logs"
    if logs.exists() and LOGS.exists() and logs.samefile(LOGS):
        raise UserError(f"{where} is this project itself: name another place")
    return folder


def _database(folder: Path) -> Path | None:
    """The store of a clone, a worktree, a copy of `logs`, or of what it lies in; else None.

    That of a clone need not exist yet.
    """
    folder = find_main_checkout(folder)
    for database in (folder / STORE, folder / STORE.name, folder / Path(*STORE.parts[1:])):
        if database.exists():
            return database.resolve()
    return (folder / STORE).resolve() if (folder / ENGINE).exists() else None
