"""A real MLflow tracking server for tests."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from conftest import NOT_INHERITED, free_port


@contextmanager
def tracking_server(store: Path) -> Iterator[str]:
    """The address of a tracking server, which also keeps the artifacts.

    Args:
        store: a folder for all that the server keeps.
    """
    port = free_port()
    store.mkdir(exist_ok=True)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(NOT_INHERITED)}
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (store / "server.log").open("w") as log:  # it fills a pipe that nobody reads
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", f"--port={port}", "--workers=1"),
                f"--backend-store-uri=sqlite:///{store}/mlflow.db",
                f"--artifacts-destination={store}/artifacts",
                "--serve-artifacts",
            ],
            cwd=store,
            env=inherited | quiet,
            stdout=log,
            stderr=log,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{address}/health")
        yield address
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(address: str) -> None:
    for _ in range(600):
        try:
            with urlopen(address):
                return
        except URLError:
            time.sleep(0.2)
    raise TimeoutError(address)
