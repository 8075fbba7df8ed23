"""The MLflow store: one SQLite file, `logs/mlruns/mlflow.db`, with the artifacts of every run beside it.

    python -m src.utils.store.mlflow     creates it, or mends its paths after the repository has moved

`MLFLOW_TRACKING_URI` puts another store in its place (`src/utils/store/location.py`).
"""

import logging
import os
import sqlite3
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

from src.utils.errors import UserError, exit_on_user_error, first_line
from src.utils.store.location import (
    OWN,
    create,
    is_server,
    local_database,
    old_homes,
    tracking_uri,
    without_password,
)

from filelock import FileLock

os.environ.setdefault("MLFLOW_MAX_TRACES_TO_DISPLAY_IN_NOTEBOOK", "0")

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

MOVED_COLUMNS = {
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
}


def local_store() -> Path | None:
    """The folder of the SQLite store; None for a store that is a server or a shared database."""
    database = local_database()
    return database.parent if database else None


def open_store() -> MlflowClient:
    """A client of the store, which is created, or mended after a move, first where it must be."""
    database = local_database()
    if database is not None and (not database.exists() or _old_homes(database)):
        database.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(database.with_name(".lock")):
            create(database, _tables) if not database.exists() else _relocate(database)
    uri = tracking_uri()
    shown = without_password(uri)
    mlflow.set_tracking_uri(uri)
    _check_server(uri)
    try:
        return MlflowClient(uri)
    except (ImportError, SQLAlchemyError) as error:  # no driver, no database, no permission
        raise UserError(
            f"MLFLOW_TRACKING_URI={shown} can't be opened: {first_line(error)}"
        ) from None
    except MlflowException:
        raise UserError(
            f"MLFLOW_TRACKING_URI={shown} is no MLflow store: give it the address of a server "
            "(http://…) or a database (sqlite:///…, postgresql://…), or unset it"
        ) from None


@cache  # once in a process
def _check_server(uri: str) -> None:
    """A server that isn't there is told of at once; MLflow would try for minutes, silently."""
    if not is_server(uri):
        return
    credentials: Any = get_default_host_creds  # these two have no types
    ask: Any = http_request
    try:
        ask(credentials(uri), "/health", "GET", max_retries=0, timeout=10, raise_on_status=False)
    except MlflowException as error:
        why = first_line(error).rpartition(": ")[2].strip('()" ')
        shown = without_password(uri)
        raise UserError(f"MLFLOW_TRACKING_URI={shown} does not answer: {why}") from None


def experiment_id(client: MlflowClient, name: str) -> str:
    """The id of MLflow's experiment `name`, created when it is new; processes don't race for it."""
    found = client.get_experiment_by_name(name) or _create_experiment(client, name)
    if found.lifecycle_stage == "deleted":
        number = found.experiment_id
        raise UserError(
            f"the MLflow experiment {name} was deleted: mlflow experiments restore -x {number}"
        )
    return str(found.experiment_id)


def artifact(client: MlflowClient, run: StoredRun, path: str) -> Path:
    """A file or folder among the artifacts, downloaded first where the store isn't local."""
    if local_store() is None:
        return Path(client.download_artifacts(run.info.run_id, path))
    found = Path(run.info.artifact_uri) / path
    if not found.exists():
        there = sorted(file.name for file in found.parent.glob("*")) or ["none"]
        raise UserError(
            f"run {run.info.run_id[:8]} ({run.info.status}) has no {path}: "
            f"its {found.parent.name} are {', '.join(there)}"
        )
    return found


def _create_experiment(client: MlflowClient, name: str) -> StoredExperiment:
    """With its artifacts beside a local store, in ours for any other database; a server knows itself."""
    place = None if is_server(tracking_uri()) else local_store() or OWN.parent
    try:
        number = client.create_experiment(name, str(place / name) if place else None)
        return client.get_experiment(number)
    except MlflowException:  # perhaps another process was faster
        created = client.get_experiment_by_name(name)
        if created is None:
            raise
        return created


def _tables(draft: Path) -> None:
    """MLflow's own, with its default experiment beside the place of the file."""
    store = MlflowClient(f"sqlite:///{draft}")._tracking_client.store
    store.engine.dispose()
    with closing(sqlite3.connect(draft)) as connection, connection:
        default = str(draft.parent / "0")
        connection.execute("UPDATE experiments SET artifact_location = ?", (default,))


def _relocate(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:  # one transaction
        for old in _old_homes(database):
            for table, column in MOVED_COLUMNS.items():
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE {column} LIKE ? || '/%'",
                    (str(database.parent), len(old) + 1, old),
                )


def _old_homes(database: Path) -> set[str]:
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT artifact_location FROM experiments").fetchall()
    return old_homes(path for (path,) in rows)


if __name__ == "__main__":
    with exit_on_user_error():
        open_store()
