"""Where the MLflow store is: `logs/mlruns/mlflow.db`, or what `MLFLOW_TRACKING_URI` names.

Nothing here imports MLflow. The study store (`src/utils/study/storage.py`) uses the helpers, too.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from src.utils.paths import LOGS

DEFAULT_DATABASE = LOGS / "mlruns" / "mlflow.db"
SQLITE = "sqlite:///"
RUN_STORE, STUDY_STORE = "MLFLOW_TRACKING_URI", "OPTUNA_STORAGE"  # environment variables


def tracking_uri() -> str:
    """The tracking URI for MLflow. A SQLite file has an absolute path, so that any folder will do."""
    database = local_database()
    return f"{SQLITE}{database}" if database else os.environ[RUN_STORE]


def local_database() -> Path | None:
    """The SQLite file of the store; None if the store is a server or a shared database."""
    uri = os.environ.get(RUN_STORE) or f"{SQLITE}{DEFAULT_DATABASE}"
    return Path(uri.removeprefix(SQLITE)).resolve() if uri.startswith(SQLITE) else None


def is_server(uri: str) -> bool:
    """Whether the store is an MLflow server. A server stores the artifacts, too."""
    return uri.startswith("http")


def server_page() -> str:
    """The address of an MLflow server for a browser, without user and password: links are read by others."""
    return re.sub(r"//[^/@]*@", "//", tracking_uri()).rstrip("/")


def mask_password(url: str) -> str:
    """The URL with `***` in place of its password, for messages."""
    return re.sub(r"(//[^:/@]*):[^/@]*@", r"\1:***@", url)


def old_artifact_roots(artifact_locations: Iterable[str]) -> set[str]:
    """The folders `…/logs/mlruns` of an earlier place of this repository.

    MLflow stores absolute paths. A repository that was moved would lose every artifact.

    Args:
        artifact_locations: those of the MLflow experiments, as stored.

    Returns:
        Every artifact root other than the present one; empty for a store that is not the default one.
    """
    if local_database() != DEFAULT_DATABASE.resolve():
        return set()
    marker, present = "/logs/mlruns/", str(DEFAULT_DATABASE.resolve().parent)
    stored = [path for path in artifact_locations if marker in path]
    roots = {path[: path.rindex(marker)] + marker[:-1] for path in stored}
    return roots - {present}
