"""Runs in the tables of MLflow's database: all rows of a run become a `PortableRun`, and back.

The tables are those of MLflow's own models, for SQLite, PostgreSQL and whatever else it takes. All runs are
read with one query a table: ten thousand runs take seconds.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Any
from uuid import uuid4

from src.utils.store.record import NOTE
from src.utils.transfer.portable import (
    ACTIVE,
    DELETED,
    Point,
    PortableDataset,
    PortableRun,
    note_with_names,
    note_with_numbers,
    point_order,
)

from mlflow.store.tracking.dbmodels.models import (
    SqlDataset,
    SqlExperiment,
    SqlInput,
    SqlInputTag,
    SqlLatestMetric,
    SqlMetric,
    SqlParam,
    SqlRun,
    SqlTag,
)
from sqlalchemy import Connection, delete, insert, select, update

INFINITY = 1.7976931348623157e308  # MLflow stores the largest number in its place
DATASET, RUN = "DATASET", "RUN"  # kinds of what a row of `inputs` connects
# What MLflow stores in columns that it no longer uses
UNUSED = {"source_type": "UNKNOWN", "source_name": "", "entry_point_name": "", "source_version": ""}


def read_runs(connection: Connection, run_id: str | None = None) -> dict[str, PortableRun]:
    """All runs or one, without histories, by id; a run of a deleted experiment is a deleted one."""
    params = _texts(connection, SqlParam, run_id)
    tags, latest = _texts(connection, SqlTag, run_id), _points(connection, SqlLatestMetric, run_id)
    datasets = _datasets(connection, run_id)
    query: Any = select(
        *(SqlRun.run_uuid, SqlRun.name, SqlRun.status, SqlRun.user_id),
        *(SqlRun.start_time, SqlRun.end_time, SqlRun.lifecycle_stage),
        *(SqlExperiment.experiment_id, SqlExperiment.name, SqlExperiment.lifecycle_stage),
    ).join(SqlExperiment, SqlRun.experiment_id == SqlExperiment.experiment_id)
    runs = {}
    for one, name, status, user, start, end, life, number, experiment, of_all in connection.execute(
        _of_run(query, SqlRun, run_id)
    ):
        if NOTE in tags[one]:
            tags[one][NOTE] = note_with_names(tags[one][NOTE], number, experiment)
        runs[one] = PortableRun(
            *(one, name, experiment, status, user or "", start, end),
            DELETED if DELETED in (life, of_all) else ACTIVE,
            *(params[one], tags[one]),
            {key: points[0] for key, points in latest[one].items()},
            datasets[one],
        )
    return runs


def read_run(connection: Connection, run_id: str) -> PortableRun:
    """One run with the histories of its metrics."""
    run = read_runs(connection, run_id)[run_id]
    return replace(run, history=read_history(connection, run_id))


def read_history(connection: Connection, run_id: str) -> dict[str, list[Point]]:
    """All points of each metric of a run, in the order of time."""
    history = _points(connection, SqlMetric, run_id)[run_id]
    return {key: sorted(points, key=point_order) for key, points in history.items()}


def artifact_uri(connection: Connection, run_id: str) -> str:
    """Where the artifacts of a run are, as stored; empty for a run that is not here."""
    query: Any = select(SqlRun.artifact_uri).where(SqlRun.run_uuid == run_id)
    return connection.execute(query).scalar() or ""


def write_run(connection: Connection, run: PortableRun, number: int, uri: str) -> None:
    """Write all rows of a run in place of those that it had.

    Args:
        number: of its experiment in this database.
        uri: of its artifacts.
    """
    _delete_rows(connection, run.id)  # first: of two writers, one waits here
    columns = {
        "name": run.name,
        "status": run.status,
        "user_id": run.user,
        "start_time": run.started,
        "end_time": run.ended,
        "artifact_uri": uri,
        "lifecycle_stage": ACTIVE,
        "experiment_id": number,
    }
    changed = connection.execute(update(SqlRun).where(SqlRun.run_uuid == run.id).values(columns))
    if not changed.rowcount:
        connection.execute(insert(SqlRun).values(run_uuid=run.id, **UNUSED, **columns))
    tags = dict(run.tags)
    if NOTE in tags:
        tags[NOTE] = note_with_numbers(tags[NOTE], number, run.experiment)
    _insert(connection, SqlParam, run.id, ({"key": k, "value": v} for k, v in run.params.items()))
    _insert(connection, SqlTag, run.id, ({"key": k, "value": v} for k, v in tags.items()))
    _insert(connection, SqlLatestMetric, run.id, (_row(k, one) for k, one in run.latest.items()))
    points = ((key, point) for key, history in run.history.items() for point in history)
    _insert(connection, SqlMetric, run.id, (_row(*point) for point in points))
    for dataset in run.datasets:
        _write_dataset(connection, run.id, dataset, number)


def _of_run(query: Any, table: Any, run_id: str | None) -> Any:
    return query if run_id is None else query.where(table.run_uuid == run_id)


def _texts(
    connection: Connection, table: type[SqlParam | SqlTag], run_id: str | None
) -> defaultdict[str, dict[str, str]]:
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    query: Any = select(table.run_uuid, table.key, table.value)
    for run, key, value in connection.execute(_of_run(query, table, run_id)):
        found[run][key] = value or ""
    return found


def _points(
    connection: Connection, table: type[SqlMetric | SqlLatestMetric], run_id: str | None
) -> defaultdict[str, dict[str, list[Point]]]:
    found: defaultdict[str, dict[str, list[Point]]] = defaultdict(dict)
    columns = (table.run_uuid, table.key, table.value, table.is_nan, table.timestamp, table.step)
    query: Any = select(*columns)
    for run, key, value, is_nan, time, step in connection.execute(_of_run(query, table, run_id)):
        point = (math.nan if is_nan else value, time, step)
        found[run].setdefault(key, []).append(point)
    return found


def _row(key: str, point: Point) -> dict[str, Any]:
    value, time, step = point
    is_nan = math.isnan(value)
    stored = 0.0 if is_nan else max(-INFINITY, min(INFINITY, value))
    return {"key": key, "value": stored, "is_nan": is_nan, "timestamp": time, "step": step}


def _datasets(
    connection: Connection, run_id: str | None
) -> defaultdict[str, list[PortableDataset]]:
    uses: Any = select(SqlInput.destination_id, SqlInput.source_id, SqlInput.input_uuid).where(
        SqlInput.source_type == DATASET, SqlInput.destination_type == RUN
    )
    if run_id is not None:
        uses = uses.where(SqlInput.destination_id == run_id)
    rows = connection.execute(uses).all()
    known = _described(connection, {source for _, source, _ in rows} if run_id else None)
    tags: defaultdict[str, dict[str, str]] = defaultdict(dict)
    of_uses: Any = select(SqlInputTag.input_uuid, SqlInputTag.name, SqlInputTag.value)
    if run_id is not None:
        of_uses = of_uses.where(SqlInputTag.input_uuid.in_([use for *_, use in rows]))
    for use, name, value in connection.execute(of_uses):
        tags[use][name] = value
    found: defaultdict[str, list[PortableDataset]] = defaultdict(list)
    for run, source, use in rows:
        if source in known:
            found[run].append(replace(known[source], tags=tags[use]))
    return found


def _described(connection: Connection, ids: set[str] | None) -> dict[str, PortableDataset]:
    """Datasets by their ids in this database."""
    query: Any = select(
        *(SqlDataset.dataset_uuid, SqlDataset.name, SqlDataset.digest),
        *(SqlDataset.dataset_source_type, SqlDataset.dataset_source),
        *(SqlDataset.dataset_schema, SqlDataset.dataset_profile),
    )
    if ids is not None:
        query = query.where(SqlDataset.dataset_uuid.in_(ids))
    return {one: PortableDataset(*values) for one, *values in connection.execute(query)}


def _delete_rows(connection: Connection, run_id: str) -> None:
    for table in (SqlParam, SqlTag, SqlLatestMetric, SqlMetric):
        connection.execute(delete(table).where(table.run_uuid == run_id))
    of_run = (
        SqlInput.destination_id == run_id,
        SqlInput.destination_type == RUN,
        SqlInput.source_type == DATASET,
    )
    uses: Any = select(SqlInput.input_uuid).where(*of_run)
    connection.execute(delete(SqlInputTag).where(SqlInputTag.input_uuid.in_(uses)))
    connection.execute(delete(SqlInput).where(*of_run))


def _insert(
    connection: Connection, table: Any, run_id: str, rows: Iterable[dict[str, Any]]
) -> None:
    values = [row | {"run_uuid": run_id} for row in rows]
    if values:
        connection.execute(insert(table), values)


def _write_dataset(
    connection: Connection, run_id: str, dataset: PortableDataset, number: int
) -> None:
    """The database has each dataset once for an experiment; a use of it has the tags."""
    known: Any = select(SqlDataset.dataset_uuid).where(
        SqlDataset.experiment_id == number,
        SqlDataset.name == dataset.name,
        SqlDataset.digest == dataset.digest,
    )
    dataset_id, use = connection.execute(known).scalar(), uuid4().hex
    if dataset_id is None:
        dataset_id = uuid4().hex
        row = {
            "dataset_uuid": dataset_id,
            "experiment_id": number,
            "name": dataset.name,
            "digest": dataset.digest,
            "dataset_source_type": dataset.source_type,
            "dataset_source": dataset.source,
            "dataset_schema": dataset.schema,
            "dataset_profile": dataset.profile,
        }
        connection.execute(insert(SqlDataset).values(row))
    ends = {"source_type": DATASET, "source_id": dataset_id}
    ends |= {"destination_type": RUN, "destination_id": run_id}
    connection.execute(insert(SqlInput).values(input_uuid=use, **ends))
    tags = [{"input_uuid": use, "name": k, "value": v} for k, v in dataset.tags.items()]
    if tags:
        connection.execute(insert(SqlInputTag), tags)
