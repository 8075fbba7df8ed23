"""The stores of several machines, for tests: studies and runs in PostgreSQL, artifacts in S3."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scale.postgres import create_database
from scale.s3 import s3
from scale.service import answers_http, free_ports, service, wait_for

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


@contextmanager
def stores(folder: Path, server: str) -> Iterator[dict[str, str]]:
    """The environment of those who use them: where runs and studies are.

    Args:
        folder: what they keep.
        server: the address of PostgreSQL.
    """
    runs, studies = (create_database(server, name) for name in ("runs", "studies"))
    with s3(folder / "s3") as bucket, mlflow_server(folder / "mlflow", runs, bucket) as address:
        yield {"MLFLOW_TRACKING_URI": address, "OPTUNA_STORAGE": studies}


@contextmanager
def mlflow_server(folder: Path, database: str, bucket: dict[str, str]) -> Iterator[str]:
    """The address of an MLflow server. Its clients reach the artifacts through it, and need no keys."""
    folder.mkdir(parents=True)
    (port,) = free_ports(1)
    command = [
        *(sys.executable, "-m", "mlflow", "server", f"--port={port}", "--workers=1"),
        f"--backend-store-uri={database.replace('postgresql:', 'postgresql+psycopg:')}",
        *("--artifacts-destination=s3://mlflow/artifacts", "--serve-artifacts"),
    ]
    address = f"http://127.0.0.1:{port}"
    with service(command, folder, bucket | QUIET) as process:
        wait_for(process, lambda: answers_http(f"{address}/health"))
        yield address
