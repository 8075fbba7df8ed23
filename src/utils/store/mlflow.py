"""Opening the MLflow store with MLflow's own client.

The default store is one SQLite file, `logs/mlruns/mlflow.db`, with the artifacts of every run beside it.
`MLFLOW_TRACKING_URI` names another one (`src/utils/store/location.py`).

    python -m src.utils.store.mlflow     creates the store; updates its paths if the repository was moved
"""

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from src.utils.errors import UserError, exit_on_user_error, first_line
from src.utils.process import deferred_interrupts
from src.utils.store.experiment_page import KIND
from src.utils.store.location import (
    DEFAULT_DATABASE,
    SQLITE,
    is_server,
    local_database,
    mask_password,
    old_artifact_roots,
    tracking_uri,
)
from src.utils.store.record import PARENT, REASON
from src.utils.store.sqlite_file import check_database, create_database

from filelock import FileLock

# Before MLflow's import. The second and third are what it would print of each run of a server
os.environ.setdefault("MLFLOW_MAX_TRACES_TO_DISPLAY_IN_NOTEBOOK", "0")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
from mlflow.entities import Experiment as StoredExperiment
from mlflow.entities import Run as StoredRun
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from sqlalchemy.exc import SQLAlchemyError

logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)
logging.getLogger("botocore").setLevel(logging.WARNING)  # of artifacts in S3

# Of a database server; MLflow would keep five in each process. It opens more for as long as threads need them
KEEP_ONE_CONNECTION = ("MLFLOW_SQLALCHEMYSTORE_POOL_SIZE", "1")
MAX_RUNS = 50_000  # MLflow's limit for one search
# The columns that hold absolute paths, by table
PATH_COLUMNS = {
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
}


def open_store() -> MlflowClient:
    """Open the store. The default store is created, or its paths are updated, if needed.

    Raises:
        UserError: `MLFLOW_TRACKING_URI` is no MLflow store, can't be opened, or doesn't answer; or a SQLite
            file is in WAL mode on a network file system.
    """
    database = local_database()
    if database is not None:
        check_database(database)
        if not database.exists():
            create_store(database)
        elif _stored_old_roots(database):
            with FileLock(database.with_name(".lock")):
                _update_paths(database)
    uri = tracking_uri()
    shown = mask_password(uri)
    os.environ.setdefault(*KEEP_ONE_CONNECTION)
    mlflow.set_tracking_uri(uri)
    check_server(uri)
    try:
        client = MlflowClient(uri)
        _defer_interrupts(client._tracking_client.store)
        return client
    except (ImportError, SQLAlchemyError) as error:  # no driver, no database, no permission
        raise UserError(
            f"MLFLOW_TRACKING_URI={shown} can't be opened: {first_line(error)}"
        ) from None
    except MlflowException:
        raise UserError(
            f"MLFLOW_TRACKING_URI={shown} is no MLflow store: give it the address of a server "
            "(http://…) or a database (sqlite:///…, postgresql://…), or unset it"
        ) from None


def _defer_interrupts(store: Any) -> None:
    """Let Ctrl-C and SIGTERM wait for the end of a transaction: an exception within SQLAlchemy can leave it
    open, and the database locked. MLflow has one store for each address."""
    sessions = getattr(store, "ManagedSessionMaker", None)  # a server has none
    if sessions is None or getattr(sessions, "defers_interrupts", False):
        return

    @contextmanager
    def session(*arguments: Any, **options: Any) -> Iterator[Any]:
        with deferred_interrupts(), sessions(*arguments, **options) as found:
            yield found

    session.defers_interrupts = True  # type: ignore[attr-defined]  # so that it is done once
    store.ManagedSessionMaker = session


def close_connections(client: MlflowClient) -> None:
    """Close the connections to a database: a fork must not inherit them. The next use opens new ones."""
    engine = getattr(client._tracking_client.store, "engine", None)  # a server's has none
    if engine is not None:
        engine.dispose()


def create_store(database: Path) -> None:
    """Create the SQLite file of a store, in one process only; its artifacts go beside it."""
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(database.with_name(".lock")):
        if not database.exists():
            create_database(database, _create_tables)


def _create_tables(draft: Path) -> None:
    """Create MLflow's tables; the default experiment's artifacts go beside the file."""
    close_connections(MlflowClient(f"{SQLITE}{draft}"))
    with closing(sqlite3.connect(draft)) as connection, connection:
        default = str(draft.parent / "0")
        connection.execute("UPDATE experiments SET artifact_location = ?", (default,))


def _stored_old_roots(database: Path) -> set[str]:
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT artifact_location FROM experiments").fetchall()
    return old_artifact_roots(path for (path,) in rows)


def _update_paths(database: Path) -> None:
    """Replace every old artifact root in the store by the present one."""
    with closing(sqlite3.connect(database)) as connection, connection:  # one transaction
        for old in _stored_old_roots(database):
            for table, column in PATH_COLUMNS.items():
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE {column} LIKE ? || '/%'",
                    (str(database.parent), len(old) + 1, old),
                )


@cache  # once in a process
def check_server(uri: str, setting: str = "MLFLOW_TRACKING_URI=") -> None:
    """Report at once a server that doesn't answer; MLflow would retry silently for minutes.

    Args:
        setting: what stands before the address in the message.

    Raises:
        UserError: it doesn't answer.
    """
    if not is_server(uri):
        return
    get_credentials: Any = get_default_host_creds  # these two have no types
    request: Any = http_request
    options = {"max_retries": 0, "timeout": 10, "raise_on_status": False}
    try:
        request(get_credentials(uri), "/health", "GET", **options)
    except MlflowException as error:
        why = first_line(error).rpartition(": ")[2].strip('()" ')
        shown = mask_password(uri)
        raise UserError(f"{setting}{shown} does not answer: {why}") from None


def local_store() -> Path | None:
    """The folder of the SQLite store; None if the store is a server or a shared database."""
    database = local_database()
    return database.parent if database else None


def experiment_id(client: MlflowClient, name: str) -> str:
    """The id of an MLflow experiment. It is created if it is new; several processes may do so at once.

    Raises:
        UserError: the experiment was deleted.
    """
    found = client.get_experiment_by_name(name) or _create_experiment(client, name)
    if found.lifecycle_stage == "deleted":
        number = found.experiment_id
        raise UserError(
            f"the MLflow experiment {name} was deleted: mlflow experiments restore -x {number}"
        )
    return str(found.experiment_id)


def _create_experiment(client: MlflowClient, name: str) -> StoredExperiment:
    """It is marked as model training. Its artifacts go beside a local store, or into `logs/mlruns` for a
    database; a server has its own."""
    root = None if is_server(client.tracking_uri) else local_store() or DEFAULT_DATABASE.parent
    try:
        number = client.create_experiment(name, str(root / name) if root else None, KIND)
        return client.get_experiment(number)
    except MlflowException:  # perhaps another process was faster
        created = client.get_experiment_by_name(name)
        if created is None:
            raise
        return created


def reopen_run(client: MlflowClient, run_id: str) -> None:
    """Set a run that has ended to RUNNING; the reason for which it ended is no longer told of."""
    client.update_run(run_id, status="RUNNING")
    if REASON in client.get_run(run_id).data.tags:
        client.delete_tag(run_id, REASON)


def search_children(client: MlflowClient, run_id: str) -> list[StoredRun]:
    """The trials of a study or the members of a group, the oldest first."""
    return list(
        client.search_runs(
            [client.get_run(run_id).info.experiment_id],
            f"tags.`{PARENT}` = '{run_id}'",
            max_results=MAX_RUNS,
            order_by=["attributes.start_time ASC"],
        )
    )


def get_artifact(client: MlflowClient, run: StoredRun, path: str) -> Path:
    """A file or folder among the artifacts of a run; it is downloaded if the store isn't local.

    Raises:
        UserError: the run has no such artifact.
    """
    folder, _, name = path.rpartition("/")
    if local_store() is None:
        files = client.list_artifacts(run.info.run_id, folder or None)
        present = sorted(file.path.rpartition("/")[2] for file in files)
        if name in present:
            return Path(client.download_artifacts(run.info.run_id, path))
    else:
        found = Path(run.info.artifact_uri) / path
        if found.exists():
            return found
        present = sorted(file.name for file in found.parent.glob("*"))
    raise UserError(
        f"run {run.info.run_id[:8]} ({run.info.status}) has no {path}: "
        f"its {folder or 'artifacts'} are {', '.join(present) or 'none'}"
    )


if __name__ == "__main__":
    with exit_on_user_error():
        open_store()
