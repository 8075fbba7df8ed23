"""The runs of any place, read as those of a store: for references (`latest`, `model01/best`) and filters."""

from collections.abc import Iterable, Sequence

from src.utils.store.record import Curve, DatasetUse, RunRecord, Value, local_time
from src.utils.transfer.portable import DELETED, PortableRun


class ListedReader:
    """A `RunReader` of runs that are listed already."""

    def __init__(self, runs: Iterable[PortableRun]) -> None:
        self._listed = {run.id: run for run in runs}
        newest_first = sorted(runs, key=lambda run: run.started or 0, reverse=True)
        self._records = [_record(run) for run in newest_first]

    def runs(self, deleted: bool = False) -> list[RunRecord]:
        return [
            run for run in self._records if (self._listed[run.id].lifecycle == DELETED) is deleted
        ]

    def with_values(self, records: Sequence[RunRecord]) -> list[RunRecord]:
        return list(records)  # they have them already

    def column(self, kind: str, key: str) -> dict[str, Value]:
        values = {run.id: getattr(run, kind).get(key) for run in self._records}
        return {run_id: value for run_id, value in values.items() if value is not None}

    def tagged(self, key: str, value: str) -> list[RunRecord]:
        return [run for run in self.runs() if run.tags.get(key) == value]

    def keys(self, kind: str) -> set[str]:
        return {key for run in self._records for key in getattr(run, kind)}

    def curves(self, records: Sequence[RunRecord], metric: str) -> dict[str, Curve]:
        return {}  # histories are not listed

    def datasets(self, run_id: str) -> list[DatasetUse]:
        return [
            DatasetUse(
                data.name, data.digest, data.tags.get("mlflow.data.context", ""), data.run_id
            )
            for data in self._listed[run_id].datasets
        ]

    def all_datasets(self) -> dict[str, list[DatasetUse]]:
        return {run.id: self.datasets(run.id) for run in self.runs()}


def _record(run: PortableRun) -> RunRecord:
    return RunRecord(
        *(run.id, run.name, run.experiment, run.status),
        *(local_time(run.started), local_time(run.ended)),
        "",
        run.params,
        {name: value for name, (value, _, _) in run.latest.items()},
        run.tags,
    )
