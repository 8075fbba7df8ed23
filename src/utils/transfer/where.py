"""What WHERE means in `lab push WHERE` and `lab pull WHERE`."""

import re
from pathlib import Path

from src.utils.errors import UserError
from src.utils.paths import ROOT, find_main_checkout
from src.utils.store.location import is_server, local_database, mask_password, tracking_uri
from src.utils.transfer.database import STORE, DatabasePlace
from src.utils.transfer.folder import RUNS, FolderPlace
from src.utils.transfer.host import Host, parse_where
from src.utils.transfer.place import Place

ENGINE = Path("src", "utils", "paths.py")  # by it a folder is another clone


def own_place() -> Place:
    """The store of this project.

    Raises:
        UserError: it can't be opened.
    """
    if is_server(tracking_uri()):
        from src.utils.transfer.server import OwnServerPlace  # late: only where it is needed

        return OwnServerPlace()
    return DatabasePlace.own()


def source_place(where: str) -> Place:
    """The place that runs are to come from.

    Raises:
        UserError: there is no such place, it is this project itself, or it has no runs.
    """
    if (elsewhere := _elsewhere(where)) is not None:
        return elsewhere
    folder = Path(where).expanduser().absolute()
    if not folder.is_dir():
        raise UserError(f"{where} does not exist, or is no folder: nothing can be pulled from it")
    database = _database(folder)
    _refuse_itself(where, database)
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
    if (elsewhere := _elsewhere(where)) is not None:
        return elsewhere
    folder = Path(where).expanduser().absolute()
    database = _database(folder)
    _refuse_itself(where, database)
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


def _elsewhere(where: str) -> Place | None:
    """A server, or another machine; None for a folder."""
    if (remote := parse_where(where)) is not None:
        return _by_ssh(where, *remote)
    if is_server(where):
        from src.utils.transfer.server import ServerPlace  # late: only where it is needed

        if where.rstrip("/") == tracking_uri().rstrip("/"):
            raise UserError(
                f"{mask_password(where)} is the store of this project: name another place"
            )
        return ServerPlace(mask_password(where), where)
    return None


def _by_ssh(where: str, name: str, path: str) -> Place:
    """A clone of the project there, or an exchange folder."""
    from src.utils.transfer.ssh_clone import SshClone  # late: only where they are needed
    from src.utils.transfer.ssh_folder import SshFolder

    path = path.removeprefix("~/").rstrip("/") or "."
    mirror = ROOT / "outputs" / "transfer" / re.sub(r"[^\w.@-]+", "-", where)
    host = Host(name)
    found = host.probe(path)
    if "project" in found:
        return SshClone(where, host, path, mirror)
    if "folder" in found and not found & {"runs", "empty"}:
        raise UserError(f"{where} holds other things than runs: name a new folder in it")
    return SshFolder(where, host, path, mirror)


def _database(folder: Path) -> Path | None:
    """The store of a clone, a worktree, a copy of `logs`, or of what it lies in; else None.

    That of a clone need not exist yet.
    """
    folder = find_main_checkout(folder)
    for database in (folder / STORE, folder / STORE.name, folder / Path(*STORE.parts[1:])):
        if database.exists():
            return database.resolve()
    return (folder / STORE).resolve() if (folder / ENGINE).exists() else None


def _refuse_itself(where: str, database: Path | None) -> None:
    if database is not None and database == local_database():
        raise UserError(f"{where} is this project itself: name another place")
