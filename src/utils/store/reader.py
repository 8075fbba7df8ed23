"""Reading the runs of the store, without MLflow where that is possible.

    reader = open_reader()
    records = reader.with_values(reader.runs()[:10])      # the ten newest, with params, metrics and tags

Importing MLflow takes more than a second, and its client takes several more to read ten thousand runs.
So a SQLite store is read by plain SQL (`SqliteReader`). A server or shared database is read by MLflow's
client (`ServerReader` in `src/utils/store/server_reader.py`).
"""

import math
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from src.utils.errors import UserError
from src.utils.store.location import local_database, old_artifact_roots
from src.utils.store.record import Curve, DatasetUse, RunRecord, Value, local_time

RUNS_PER_QUERY = 500  # SQLite limits the parameters of one query
MAX_DEPTH = 10  # of a lineage: more is a cycle
TABLES = {"metrics": "latest_metrics", "params": "params", "tags": "tags"}  # of MLflow, by kind
SELECT_RUNS = """
    SELECT run_uuid, runs.name, experiments.name, status, start_time, end_time, artifact_uri
    FROM runs JOIN experiments USING (experiment_id)
    WHERE runs.lifecycle_stage = ?
        AND (experiments.lifecycle_stage = 'active' OR runs.lifecycle_stage = 'deleted') {}
    ORDER BY start_time DESC
"""
HAS_TAG = "AND run_uuid IN (SELECT run_uuid FROM tags WHERE key = ? AND value = ?)"
SELECT_DATASETS = """
    SELECT destination_id, datasets.name, digest, coalesce(context.value, ''), coalesce(origin.value, '')
    FROM inputs JOIN datasets ON dataset_uuid = source_id
    LEFT JOIN input_tags context
        ON context.input_uuid = inputs.input_uuid AND context.name = 'mlflow.data.context'
    LEFT JOIN input_tags origin
        ON origin.input_uuid = inputs.input_uuid AND origin.name = 'run_id'
"""

SELECT_CURVES = """
    SELECT run_uuid, step, value FROM metrics
    WHERE "key" = ? AND NOT is_nan AND run_uuid IN ({}) ORDER BY step, timestamp
"""


class RunReader(Protocol):
    """Reads the runs of a store."""

    def runs(self, deleted: bool = False) -> list[RunRecord]:
        """All runs, the newest first, without params, metrics and tags."""

    def with_values(self, records: Sequence[RunRecord]) -> list[RunRecord]:
        """The same runs with their params, metrics and tags."""

    def column(self, kind: str, key: str) -> dict[str, Value]:
        """One param, metric or tag of every run that has it, by run id.

        Args:
            kind: "params", "metrics" or "tags".
        """

    def tagged(self, key: str, value: str) -> list[RunRecord]:
        """The runs with this tag, the newest first, with their params, metrics and tags."""

    def keys(self, kind: str) -> set[str]:
        """The names of all params, metrics or tags."""

    def curves(self, records: Sequence[RunRecord], metric: str) -> dict[str, Curve]:
        """The history of a metric in each of these runs that has logged it, by run id; without NaN."""

    def datasets(self, run_id: str) -> list[DatasetUse]:
        """The data that a run read and wrote."""

    def all_datasets(self) -> dict[str, list[DatasetUse]]:
        """The same of every run, by run id, the newest first."""


def open_reader() -> RunReader:
    """A reader of the store that `MLFLOW_TRACKING_URI` names, or of the default one.

    Raises:
        UserError: the SQLite store doesn't exist yet or can't be read, or the server can't be opened.
    """
    database = local_database()
    if database is not None:
        return SqliteReader(database)
    from src.utils.store.server_reader import ServerReader  # late: it imports MLflow

    return ServerReader()


class SqliteReader:
    """Reads MLflow's own tables in a SQLite file."""

    def __init__(self, database: Path) -> None:
        if not database.exists():
            raise UserError("there are no runs yet: bash scripts/run.sh makes the first")
        self.database = database
        self._runs: dict[bool, list[RunRecord]] = {}
        self._update_paths()

    def runs(self, deleted: bool = False) -> list[RunRecord]:
        if deleted not in self._runs:
            rows = self._query(SELECT_RUNS.format(""), ["deleted" if deleted else "active"])
            self._runs[deleted] = [_record(*row) for row in rows]
        return list(self._runs[deleted])

    def with_values(self, records: Sequence[RunRecord]) -> list[RunRecord]:
        params, metrics, tags = (self._values(k, records) for k in ("params", "metrics", "tags"))
        return [
            replace(run, params=params[run.id], metrics=metrics[run.id], tags=tags[run.id])
            for run in records
        ]

    def column(self, kind: str, key: str) -> dict[str, Value]:
        query = f"SELECT run_uuid, {_value_column(kind)} FROM {TABLES[kind]} WHERE key = ?"
        return {run_id: _converted(value, kind) for run_id, value in self._query(query, [key])}

    def tagged(self, key: str, value: str) -> list[RunRecord]:
        rows = self._query(SELECT_RUNS.format(HAS_TAG), ["active", key, value])
        return self.with_values([_record(*row) for row in rows])

    def keys(self, kind: str) -> set[str]:
        return {key for (key,) in self._query(f"SELECT DISTINCT key FROM {TABLES[kind]}")}

    def curves(self, records: Sequence[RunRecord], metric: str) -> dict[str, Curve]:
        found: dict[str, Curve] = {}
        for marks, ids in _batches(records):
            for run_id, step, value in self._query(SELECT_CURVES.format(marks), [metric, *ids]):
                found.setdefault(run_id, {})[step] = value
        return found

    def datasets(self, run_id: str) -> list[DatasetUse]:
        rows = self._query(f"{SELECT_DATASETS} WHERE destination_id = ?", [run_id])
        return [DatasetUse(*row) for _, *row in rows]

    def all_datasets(self) -> dict[str, list[DatasetUse]]:
        uses: dict[str, list[DatasetUse]] = {run.id: [] for run in self.runs()}
        for run_id, *row in self._query(SELECT_DATASETS):
            if run_id in uses:
                uses[run_id].append(DatasetUse(*row))
        return uses

    def _values(self, kind: str, records: Sequence[RunRecord]) -> dict[str, dict[str, Any]]:
        values: dict[str, dict[str, Any]] = {run.id: {} for run in records}
        select = f"SELECT run_uuid, key, {_value_column(kind)} FROM {TABLES[kind]}"
        for marks, ids in _batches(records):
            for run_id, key, value in self._query(f"{select} WHERE run_uuid IN ({marks})", ids):
                values[run_id][key] = _converted(value, kind)
        return values

    def _query(self, query: str, values: Iterable[str] = ()) -> list[tuple[Any, ...]]:
        try:
            with closing(sqlite3.connect(f"{self.database.as_uri()}?mode=ro", uri=True)) as store:
                return store.execute(query, tuple(values)).fetchall()
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"the store {self.database} can't be read ({error}): lab doctor says more"
            ) from None

    def _update_paths(self) -> None:
        """Update the paths of a repository that was moved, as a run does when it opens the store."""
        rows = self._query("SELECT artifact_location FROM experiments")
        if old_artifact_roots(path for (path,) in rows):
            from src.utils.store.mlflow import open_store  # late: it imports MLflow

            open_store()


def _batches(records: Sequence[RunRecord]) -> Iterator[tuple[str, list[str]]]:
    """The ids of runs, as many as fit into one query, and the marks in it that stand for them."""
    for start in range(0, len(records), RUNS_PER_QUERY):
        ids = [run.id for run in records[start : start + RUNS_PER_QUERY]]
        yield ",".join("?" * len(ids)), ids


def _record(
    run_id: str, name: str, experiment: str, status: str, start: int, end: int | None, uri: str
) -> RunRecord:
    return RunRecord(run_id, name, experiment, status, local_time(start), local_time(end), uri)


def _value_column(kind: str) -> str:
    return "CASE WHEN is_nan THEN NULL ELSE value END" if kind == "metrics" else "value"


def _converted(value: Any, kind: str) -> Any:
    """A NULL is a NaN among the metrics, and an empty text elsewhere."""
    return (math.nan if kind == "metrics" else "") if value is None else value


def find_artifact(record: RunRecord, path: str) -> Path | None:
    """A file or folder among the artifacts of a run; None if it has no such artifact.

    It is downloaded if the artifacts aren't on this machine. `path=""` is the whole folder.
    """
    uri = record.artifact_uri.removeprefix("file://")
    if uri.startswith("/"):
        found = Path(uri) / path
        return found if found.exists() else None
    from src.utils.store.server_reader import download  # late: it imports MLflow

    return download(record.id, path)


@dataclass(frozen=True)
class Ancestor:
    """Data in the lineage of a run."""

    dataset: DatasetUse
    depth: int  # 0: the run itself read it; 1: the run that made that did; …
    run_exists: bool  # whether the run that made it is still in the store


def trace_lineage(reader: RunReader, run_id: str) -> list[Ancestor]:
    """The data that a run read, each followed by the data from which it was made."""
    existing = {run.id for run in reader.runs()}
    return list(_trace(reader, run_id, 0, existing))


def _trace(reader: RunReader, run_id: str, depth: int, existing: set[str]) -> Iterator[Ancestor]:
    for dataset in reader.datasets(run_id):
        if dataset.context == "input" and depth < MAX_DEPTH:
            yield Ancestor(dataset, depth, dataset.run_id in existing)
            yield from _trace(reader, dataset.run_id, depth + 1, existing)


def dataset_digests(reader: RunReader, run_id: str) -> dict[str, str]:
    """The digests of all data that a run read or wrote, and of their lineage, by name."""
    lineage = [ancestor.dataset for ancestor in trace_lineage(reader, run_id)]
    return {dataset.name: dataset.digest for dataset in [*lineage, *reader.datasets(run_id)]}
