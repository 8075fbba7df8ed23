"""The runs of the store, to be read: MLflow's own tables by plain SQL.

Importing MLflow takes more than a second, and a client that reads ten thousand runs several more.
Where `MLFLOW_TRACKING_URI` names something else than a SQLite file, MLflow is asked after all
(`src/utils/store/remote.py`).
"""

import math
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from src.utils.errors import UserError
from src.utils.store.address import local_database, old_homes
from src.utils.store.entry import Entry, Used, Value, moment

AT_ONCE = 500  # runs whose values are read by one query
KINDS = {"metrics": "latest_metrics", "params": "params", "tags": "tags"}  # and their tables
HEADERS = """
    SELECT run_uuid, runs.name, experiments.name, status, start_time, end_time, artifact_uri
    FROM runs JOIN experiments USING (experiment_id)
    WHERE runs.lifecycle_stage = ?
        AND (experiments.lifecycle_stage = 'active' OR runs.lifecycle_stage = 'deleted')
    ORDER BY start_time DESC
"""
INPUTS = """
    SELECT datasets.name, digest, coalesce(context.value, ''), coalesce(origin.value, '')
    FROM inputs JOIN datasets ON dataset_uuid = source_id
    LEFT JOIN input_tags context
        ON context.input_uuid = inputs.input_uuid AND context.name = 'mlflow.data.context'
    LEFT JOIN input_tags origin
        ON origin.input_uuid = inputs.input_uuid AND origin.name = 'run_id'
    WHERE destination_id = ?
"""


class Ledger(Protocol):
    """What can be asked of a store, whatever it is."""

    def headers(self, deleted: bool = False) -> list[Entry]:
        """All runs, the newest first, by name and time alone."""

    def filled(self, entries: Sequence[Entry]) -> list[Entry]:
        """The same runs with their params, metrics and tags."""

    def column(self, kind: str, key: str) -> dict[str, Value]:
        """One param, metric or tag of every run that has it, by run id."""

    def keys(self, kind: str) -> set[str]:
        """The names of all params, metrics or tags."""

    def inputs(self, run_id: str) -> list[Used]:
        """The data that a run read and wrote."""


class LocalLedger:
    """The SQLite store."""

    def __init__(self, database: Path) -> None:
        if not database.exists():
            raise UserError("there are no runs yet: bash scripts/run.sh makes the first")
        self.database = database
        self._headers: dict[bool, list[Entry]] = {}
        self._mend()

    def headers(self, deleted: bool = False) -> list[Entry]:
        if deleted not in self._headers:
            rows = self._rows(HEADERS, ["deleted" if deleted else "active"])
            self._headers[deleted] = [
                Entry(run_id, name, experiment, status, moment(began), moment(ended), location)
                for run_id, name, experiment, status, began, ended, location in rows
            ]
        return list(self._headers[deleted])

    def filled(self, entries: Sequence[Entry]) -> list[Entry]:
        params, metrics, tags = (self._values(k, entries) for k in ("params", "metrics", "tags"))
        return [
            replace(one, params=params[one.id], metrics=metrics[one.id], tags=tags[one.id])
            for one in entries
        ]

    def column(self, kind: str, key: str) -> dict[str, Value]:
        query = f"SELECT run_uuid, {_value(kind)} FROM {KINDS[kind]} WHERE key = ?"
        return {run_id: _read(value, kind) for run_id, value in self._rows(query, [key])}

    def keys(self, kind: str) -> set[str]:
        return {key for (key,) in self._rows(f"SELECT DISTINCT key FROM {KINDS[kind]}")}

    def inputs(self, run_id: str) -> list[Used]:
        return [Used(*row) for row in self._rows(INPUTS, [run_id])]

    def _values(self, kind: str, entries: Sequence[Entry]) -> dict[str, dict[str, Any]]:
        values: dict[str, dict[str, Any]] = {one.id: {} for one in entries}
        for start in range(0, len(entries), AT_ONCE):
            some = [one.id for one in entries[start : start + AT_ONCE]]
            marks = ",".join("?" * len(some))
            query = f"SELECT run_uuid, key, {_value(kind)} FROM {KINDS[kind]}"
            for run_id, key, value in self._rows(f"{query} WHERE run_uuid IN ({marks})", some):
                values[run_id][key] = _read(value, kind)
        return values

    def _rows(self, query: str, values: Iterable[str] = ()) -> list[tuple[Any, ...]]:
        try:
            with closing(sqlite3.connect(f"{self.database.as_uri()}?mode=ro", uri=True)) as store:
                return store.execute(query, tuple(values)).fetchall()
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"the store {self.database} can't be read ({error}): lab doctor says more"
            ) from None

    def _mend(self) -> None:
        """A repository that was moved has its paths put right, as when a run opens the store."""
        rows = self._rows("SELECT artifact_location FROM experiments")
        if old_homes(path for (path,) in rows):
            from src.utils.store.client import open_store  # late: it imports MLflow

            open_store()


def _value(kind: str) -> str:
    return "CASE WHEN is_nan THEN NULL ELSE value END" if kind == "metrics" else "value"


def _read(value: Any, kind: str) -> Any:
    return (math.nan if kind == "metrics" else "") if value is None else value


def open_ledger() -> Ledger:
    """The runs of the store that is in use."""
    database = local_database()
    if database is not None:
        return LocalLedger(database)
    from src.utils.store.remote import RemoteLedger  # late: it imports MLflow

    return RemoteLedger()


def artifact(entry: Entry, path: str) -> Path | None:
    """A file or folder among the artifacts, downloaded first where it is elsewhere; None without it."""
    location = entry.location.removeprefix("file://")
    if location.startswith("/"):
        found = Path(location) / path
        return found if found.exists() else None
    from src.utils.store.remote import download  # late: it imports MLflow

    return download(entry.id, path)
