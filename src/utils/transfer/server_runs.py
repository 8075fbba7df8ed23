"""A run of an MLflow server as a `PortableRun`, and what of one is to be sent to a server.

Ids of runs inside tags, notes and datasets are translated.
"""

import re
from collections.abc import Iterator, Mapping

from src.utils.store.record import NOTE
from src.utils.transfer.portable import (
    ACTIVE,
    DELETED,
    Point,
    PortableDataset,
    PortableRun,
    note_with_names,
    note_with_numbers,
)

from mlflow.entities import Dataset, DatasetInput, InputTag, LifecycleStage, Metric
from mlflow.entities import Run as StoredRun

RUN_ID = re.compile(r"\b[0-9a-f]{32}\b")


def translate(text: str, ids: Mapping[str, str]) -> str:
    """A text with other ids of runs in it; an id that is not known stays."""
    return RUN_ID.sub(lambda found: ids.get(found[0], found[0]), text)


def portable_run(
    run: StoredRun,
    experiment: tuple[str, str],
    origins: Mapping[str, str],
    history: Mapping[str, list[Point]] | None = None,
) -> PortableRun:
    """A run of a server as it is elsewhere.

    Args:
        experiment: its name and lifecycle.
        origins: the ids that runs have elsewhere, by the server's.
        history: of its metrics.
    """
    info, (name, of_all) = run.info, experiment
    tags = {key: translate(value, origins) for key, value in run.data.tags.items()}
    if NOTE in tags:
        tags[NOTE] = note_with_names(tags[NOTE], info.experiment_id, name)
    inputs = run.inputs.dataset_inputs if run.inputs else []
    is_deleted = LifecycleStage.DELETED in (info.lifecycle_stage, of_all)
    return PortableRun(
        id=origins.get(info.run_id, info.run_id),
        name=info.run_name or "",
        experiment=name,
        status=info.status,
        user=info.user_id or "",
        started=info.start_time,
        ended=info.end_time,
        lifecycle=DELETED if is_deleted else ACTIVE,
        params=dict(run.data.params),
        tags=tags,
        latest={one.key: point_of(one) for one in run.data._metric_objs},
        datasets=[_portable_dataset(one, origins) for one in inputs],
        history=dict(history or {}),
    )


def point_of(metric: Metric) -> Point:
    """A value of a metric as it travels."""
    return metric.value, metric.timestamp, metric.step


def _portable_dataset(data: DatasetInput, origins: Mapping[str, str]) -> PortableDataset:
    one = data.dataset
    return PortableDataset(
        *(one.name, one.digest, one.source_type, one.source),
        one.schema or None,
        one.profile or None,
        {tag.key: translate(tag.value, origins) for tag in data.tags},
    )


def server_tags(run: PortableRun, number: str, ids: Mapping[str, str]) -> dict[str, str]:
    """The tags of a run for a server.

    Args:
        number: of its experiment there.
        ids: the server's ids, by those that runs have elsewhere.
    """
    tags = {name: translate(value, ids) for name, value in run.tags.items()}
    if NOTE in tags:
        tags[NOTE] = note_with_numbers(tags[NOTE], number, run.experiment)
    return tags


def server_datasets(run: PortableRun, ids: Mapping[str, str]) -> list[DatasetInput]:
    """The datasets of a run for a server."""
    return [
        DatasetInput(
            Dataset(
                *(data.name, data.digest, data.source_type, data.source),
                *(data.schema, data.profile),
            ),
            [InputTag(name, translate(value, ids)) for name, value in data.tags.items()],
        )
        for data in run.datasets
    ]


def missing_metrics(run: PortableRun, present: PortableRun) -> Iterator[Metric]:
    """The points of metrics that another state of the run lacks. NaN is no equal of itself, its text is."""
    known = {(name, str(point)) for name, points in present.history.items() for point in points}
    for name, points in run.history.items():
        yield from (Metric(name, *point) for point in points if (name, str(point)) not in known)
