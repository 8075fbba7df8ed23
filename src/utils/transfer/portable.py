"""A run as it travels: all that a store knows of it, without what belongs to the store alone.

Its artifacts are files beside it. The number of its experiment and the paths of its artifacts belong to the
place where it lies (`src/utils/transfer/place.py`), and so are not part of it.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from src.utils.store.record import BLENDED, GROUP, PARENT, REASON

ACTIVE, DELETED = "active", "deleted"  # MLflow's words for the life of a run
# Tags: the study of a trial and of the study's own run; the process that began or resumed it; its commit
STUDY, PROCESS, COMMIT = "optuna.study", "process", "mlflow.source.git.commit"
# Tags that name other runs by their ids, with spaces between if there are several
NAMING_RUNS = (
    *(PARENT, GROUP, BLENDED, "best.run_id"),
    *("warm_start_from", "continued_from", "rerun_of"),
)

STUDY_PAGE = re.compile(r"(/dashboard/studies/)\d+")

Point = tuple[float, int, int]  # of a metric: value, time in milliseconds, step


@dataclass(frozen=True)
class PortableDataset:
    """Data that a run read or wrote, as MLflow describes them."""

    name: str
    digest: str
    source_type: str = "local"
    source: str = "{}"
    schema: str | None = None
    profile: str | None = None
    tags: dict[str, str] = field(default_factory=dict)  # `mlflow.data.context`, `run_id`

    @property
    def run_id(self) -> str:
        """The run that made them; empty if it is not known."""
        return self.tags.get("run_id", "")

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from the other datasets of a run."""
        return self.name, self.digest


@dataclass(frozen=True)
class PortableRun:
    """A run with its params, tags, metrics and datasets."""

    id: str  # the same everywhere
    name: str
    experiment: str  # its name: `model/model01`
    status: str
    user: str = ""
    started: int | None = None  # in milliseconds, as MLflow stores it
    ended: int | None = None
    lifecycle: str = ACTIVE
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    latest: dict[str, Point] = field(default_factory=dict)  # the last point of each metric
    datasets: list[PortableDataset] = field(default_factory=list)  # in their order
    # All points of each metric in their order; empty in a list of runs (`Place.runs`)
    history: dict[str, list[Point]] = field(default_factory=dict)

    @property
    def activity(self) -> int:
        """When it last did something, in milliseconds; the same with and without the histories of metrics."""
        times = (self.started, self.ended, _process_start(self.tags.get(PROCESS, "")))
        return max(*(time or 0 for time in times), *(time for _, time, _ in self.latest.values()))

    @property
    def is_running(self) -> bool:
        return self.status in ("RUNNING", "SCHEDULED")

    @property
    def named_runs(self) -> set[str]:
        """The ids of all runs that it names: in its tags, and those that made its data."""
        named = {one for tag in NAMING_RUNS for one in self.tags.get(tag, "").split()}
        return (named | {data.run_id for data in self.datasets}) - {"", self.id}

    def without_history(self) -> "PortableRun":
        """The same as it stands in a list of runs."""
        return replace(self, history={})

    def lacks(self, other: "PortableRun") -> bool:
        """Whether another state of the same run has tags, metrics or datasets that this one has not."""
        return (
            not _completing(other.tags).keys() <= self.tags.keys()
            or not other.latest.keys() <= self.latest.keys()
            or not _keys(other.datasets) <= _keys(self.datasets)
        )

    def completed_by(self, other: "PortableRun") -> "PortableRun":
        """This state, with the tags, metrics and datasets that only another state of the same run has."""
        known = _keys(self.datasets)
        return replace(
            self,
            params=self.params or other.params,
            tags=_completing(other.tags) | self.tags,
            latest=other.latest | self.latest,
            history=other.history | self.history,
            datasets=[*self.datasets, *(data for data in other.datasets if data.key not in known)],
        )

    def as_dict(self) -> dict[str, Any]:
        """All of it for JSON, in which NaN and infinity are texts."""
        values = asdict(self.without_history())
        values["latest"] = {name: _as_json(point) for name, point in self.latest.items()}
        values["history"] = {
            name: [_as_json(point) for point in points] for name, points in self.history.items()
        }
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "PortableRun":
        """A run as `as_dict` gave it; what a later version may have added is left out."""
        known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        fields = PortableDataset.__dataclass_fields__
        known["datasets"] = [
            PortableDataset(**{name: data[name] for name in fields if name in data})
            for data in values.get("datasets", ())
        ]
        known["latest"] = {n: _point(p) for n, p in values.get("latest", {}).items()}
        known["history"] = {n: _points(p) for n, p in values.get("history", {}).items()}
        return cls(**known)


def _completing(tags: dict[str, str]) -> dict[str, str]:
    """The tags that stay when the run goes on: why it had failed is no longer told of."""
    return {name: value for name, value in tags.items() if name != REASON}


def _keys(datasets: list[PortableDataset]) -> set[tuple[str, str]]:
    return {data.key for data in datasets}


def _process_start(process: str) -> int:
    """The milliseconds in `host pid start-time`; 0 if there are none."""
    start = process.split()[-1:]
    return int(start[0]) * 1000 if start and start[0].isdigit() else 0


def _as_json(point: Point) -> list[Any]:
    value, time, step = point
    return [value if math.isfinite(value) else str(value), time, step]


def _point(values: Iterable[Any]) -> Point:
    value, time, step = values
    return float(value), time, step


def _points(listed: Iterable[Iterable[Any]]) -> list[Point]:
    return [_point(values) for values in listed]


def point_order(point: Point) -> tuple[int, int, bool, float]:
    """A sort key of the points of a metric: by time."""
    value, time, step = point
    return time, step, math.isnan(value), 0 if math.isnan(value) else value


def note_with_names(note: str, number: object, experiment: str) -> str:
    """A note whose links to pages of runs name the experiment, not the number that a store gives it; the
    number of a study, in the link to its page, is 0."""
    note = note.replace(f"#/experiments/{number}/", f"#/experiments/{experiment}/")
    return note_with_study(note, 0)


def note_with_numbers(note: str, number: object, experiment: str) -> str:
    """The same note for a store: its links lead to the store's own pages."""
    return note.replace(f"#/experiments/{experiment}/", f"#/experiments/{number}/")


def note_with_study(note: str, number: int) -> str:
    """A note with another number of the study in the link to its page in optuna-dashboard."""
    return STUDY_PAGE.sub(rf"\g<1>{number}", note)
