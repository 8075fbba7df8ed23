"""The runs of the store, to be read: MLflow's own tables by plain SQL.

Importing MLflow takes more than a second, and a client that reads ten thousand runs several more.
Where `MLFLOW_TRACKING_URI` names something else than a SQLite file, MLflow is asked after all
(`src/utils/store/server_reader.py`).
"""

import math
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from src.utils.errors import UserError
from src.utils.store.location import local_database, old_homes

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
Value = str | float


@dataclass(frozen=True)
class RunRecord:
    """A run; its params, metrics and tags are there once `Ledger.filled` has read them."""

    id: str
    name: str
    experiment: str
    status: str
    started: datetime | None
    ended: datetime | None
    location: str  # of its artifacts
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def short(self) -> str:
        return self.id[:8]

    @property
    def note(self) -> str:
        return self.tags.get("mlflow.note.content", "")

    @property
    def labels(self) -> list[str]:
        """What was typed as tags=[…]."""
        return [name.removeprefix("tag.") for name in sorted(self.tags) if name.startswith("tag.")]

    @property
    def state(self) -> str:
        """The status, and for a trial what became of it."""
        state = self.tags.get("optuna.state", "")
        return state if state == "pruned" else self.status.lower()

    @property
    def best(self) -> dict[str, str]:
        """Of a study: what its run tells of the best trial (`run_id`, `value` and its parameters)."""
        tags = self.tags.items()
        return {
            name.removeprefix("best."): value for name, value in tags if name.startswith("best.")
        }

    @property
    def is_study(self) -> bool:
        return "optuna.study" in self.tags and "optuna.trial" not in self.tags

    @property
    def is_dirty(self) -> bool:
        return self.tags.get("git.dirty") == "true"

    @property
    def seconds(self) -> float | None:
        if self.started is None or self.ended is None:
            return None
        return (self.ended - self.started).total_seconds()


@dataclass(frozen=True)
class DatasetUse:
    """Data that a run read (`input`) or wrote (`output`), and the run that made them."""

    name: str
    digest: str
    context: str
    run_id: str


@dataclass(frozen=True)
class Ancestor:
    """Data that were read, how far back, and whether the run that made them is still known."""

    used: DatasetUse
    depth: int
    known: bool


class RunReader(Protocol):
    """What can be asked of a store, whatever it is."""

    def headers(self, deleted: bool = False) -> list[RunRecord]:
        """All runs, the newest first, by name and time alone."""

    def filled(self, records: Sequence[RunRecord]) -> list[RunRecord]:
        """The same runs with their params, metrics and tags."""

    def column(self, kind: str, key: str) -> dict[str, Value]:
        """One param, metric or tag of every run that has it, by run id."""

    def keys(self, kind: str) -> set[str]:
        """The names of all params, metrics or tags."""

    def inputs(self, run_id: str) -> list[DatasetUse]:
        """The data that a run read and wrote."""


class SqliteReader:
    """The SQLite store."""

    def __init__(self, database: Path) -> None:
        if not database.exists():
            raise UserError("there are no runs yet: bash scripts/run.sh makes the first")
        self.database = database
        self._headers: dict[bool, list[RunRecord]] = {}
        self._mend()

    def headers(self, deleted: bool = False) -> list[RunRecord]:
        if deleted not in self._headers:
            rows = self._rows(HEADERS, ["deleted" if deleted else "active"])
            self._headers[deleted] = [
                RunRecord(run_id, name, experiment, status, moment(began), moment(ended), location)
                for run_id, name, experiment, status, began, ended, location in rows
            ]
        return list(self._headers[deleted])

    def filled(self, records: Sequence[RunRecord]) -> list[RunRecord]:
        params, metrics, tags = (self._values(k, records) for k in ("params", "metrics", "tags"))
        return [
            replace(one, params=params[one.id], metrics=metrics[one.id], tags=tags[one.id])
            for one in records
        ]

    def column(self, kind: str, key: str) -> dict[str, Value]:
        query = f"SELECT run_uuid, {_value(kind)} FROM {KINDS[kind]} WHERE key = ?"
        return {run_id: _read(value, kind) for run_id, value in self._rows(query, [key])}

    def keys(self, kind: str) -> set[str]:
        return {key for (key,) in self._rows(f"SELECT DISTINCT key FROM {KINDS[kind]}")}

    def inputs(self, run_id: str) -> list[DatasetUse]:
        return [DatasetUse(*row) for row in self._rows(INPUTS, [run_id])]

    def _values(self, kind: str, records: Sequence[RunRecord]) -> dict[str, dict[str, Any]]:
        values: dict[str, dict[str, Any]] = {one.id: {} for one in records}
        for start in range(0, len(records), AT_ONCE):
            some = [one.id for one in records[start : start + AT_ONCE]]
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
            from src.utils.store.mlflow import open_store  # late: it imports MLflow

            open_store()


def _value(kind: str) -> str:
    return "CASE WHEN is_nan THEN NULL ELSE value END" if kind == "metrics" else "value"


def _read(value: Any, kind: str) -> Any:
    return (math.nan if kind == "metrics" else "") if value is None else value


def open_reader() -> RunReader:
    """The runs of the store that is in use."""
    database = local_database()
    if database is not None:
        return SqliteReader(database)
    from src.utils.store.server_reader import ServerReader  # late: it imports MLflow

    return ServerReader()


def artifact(record: RunRecord, path: str) -> Path | None:
    """A file or folder among the artifacts, downloaded first where it is elsewhere; None without it."""
    location = record.location.removeprefix("file://")
    if location.startswith("/"):
        found = Path(location) / path
        return found if found.exists() else None
    from src.utils.store.server_reader import download  # late: it imports MLflow

    return download(record.id, path)


def ancestors(reader: RunReader, run_id: str) -> list[Ancestor]:
    """What a run read, and what was read to make that, the nearest first."""
    known = {record.id for record in reader.headers()}
    return list(_back(reader, run_id, 0, known))


def _back(reader: RunReader, run_id: str, depth: int, known: set[str]) -> Iterator[Ancestor]:
    for used in reader.inputs(run_id):
        if used.context == "input" and depth < 10:  # no honest lineage is longer
            yield Ancestor(used, depth, used.run_id in known)
            yield from _back(reader, used.run_id, depth + 1, known)


def digests(reader: RunReader, run_id: str) -> dict[str, str]:
    """The digest of everything a run read or wrote, and of what that was made from, by name."""
    own = {one.name: one.digest for one in reader.inputs(run_id)}
    return {one.used.name: one.used.digest for one in ancestors(reader, run_id)} | own


def moment(milliseconds: int | None) -> datetime | None:
    """MLflow's time, in the time zone of the machine."""
    return datetime.fromtimestamp(milliseconds / 1000).astimezone() if milliseconds else None


# MERGED store/lineage: Where a run's data came from: the runs that made them, back to the first.

# MERGED store/entry: A run as the ledger has it: what is known of it, and where its artifacts are.
