"""Ctrl-C and SIGTERM while something is written to the MLflow store."""

import signal
import sys
from pathlib import Path

from src.utils.store.mlflow import _defer_interrupts, close_connections

import pytest
from mlflow.tracking import MlflowClient


def test_transactions_end(tmp_path: Path) -> None:
    """SIGTERM within a transaction ends the program after it: left open, it would lock the database."""
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    store, reached = client._tracking_client.store, []
    for _ in range(2):  # each time that the store is opened
        _defer_interrupts(store)

    def interrupted() -> None:
        with store.ManagedSessionMaker() as session:
            signal.raise_signal(signal.SIGTERM)
            reached.append(session.in_transaction())

    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with pytest.raises(SystemExit):
            interrupted()
    finally:
        signal.signal(signal.SIGTERM, before)
        close_connections(client)
    assert reached == [True]
