"""Reading the runs of a store that is a server or a shared database, by MLflow's client."""

import math
from collections.abc import Sequence
from pathlib import Path

from src.utils.store.mlflow import open_store
from src.utils.store.record import Curve, DatasetUse, RunRecord, Value, local_time

from mlflow.entities import Run as StoredRun
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

PAGE = 1000  # runs of one request


class ServerReader:
    """A `RunReader` that requests all runs with all values once, and keeps them."""

    def __init__(self) -> None:
        self.client = open_store()
        found = self.client.search_experiments()
        self.experiments = {experiment.experiment_id: experiment.name for experiment in found}
        self._runs: dict[bool, dict[str, StoredRun]] = {}

    def runs(self, deleted: bool = False) -> list[RunRecord]:
        return [self._record(run) for run in self._stored_runs(deleted).values()]

    def with_values(self, records: Sequence[RunRecord]) -> list[RunRecord]:
        return list(records)  # they have them already

    def column(self, kind: str, key: str) -> dict[str, Value]:
        runs = self._stored_runs().items()
        values = {run_id: getattr(run.data, kind).get(key) for run_id, run in runs}
        return {run_id: value for run_id, value in values.items() if value is not None}

    def tagged(self, key: str, value: str) -> list[RunRecord]:
        found = self._search(ViewType.ACTIVE_ONLY, f"tags.`{key}` = '{value}'")
        return [self._record(run) for run in found]

    def keys(self, kind: str) -> set[str]:
        return {key for run in self._stored_runs().values() for key in getattr(run.data, kind)}

    def curves(self, records: Sequence[RunRecord], metric: str) -> dict[str, Curve]:
        found = {}
        for run in records:
            if metric in run.metrics:
                history = self.client.get_metric_history(run.id, metric)
                history.sort(key=lambda one: (one.step, one.timestamp))
                found[run.id] = {
                    one.step: one.value for one in history if not math.isnan(one.value)
                }
        return found

    def datasets(self, run_id: str) -> list[DatasetUse]:
        return _datasets(self.client.get_run(run_id))

    def all_datasets(self) -> dict[str, list[DatasetUse]]:
        return {run_id: _datasets(run) for run_id, run in self._stored_runs().items()}

    def _stored_runs(self, deleted: bool = False) -> dict[str, StoredRun]:
        if deleted not in self._runs:
            view = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
            self._runs[deleted] = {run.info.run_id: run for run in self._search(view)}
        return self._runs[deleted]

    def _search(self, view: int, query: str = "") -> list[StoredRun]:
        runs: list[StoredRun] = []
        token: str | None = None
        while token is None or token:
            page = self.client.search_runs(
                list(self.experiments),
                query,
                run_view_type=view,
                max_results=PAGE,
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
            runs, token = runs + list(page), page.token or ""
        return runs

    def _record(self, run: StoredRun) -> RunRecord:
        info, data = run.info, run.data
        return RunRecord(
            info.run_id,
            info.run_name,
            self.experiments[info.experiment_id],
            info.status,
            local_time(info.start_time),
            local_time(info.end_time),
            info.artifact_uri,
            data.params,
            data.metrics,
            data.tags,
        )


def _datasets(run: StoredRun) -> list[DatasetUse]:
    uses = []
    for use in run.inputs.dataset_inputs if run.inputs else ():
        tags = {tag.key: tag.value for tag in use.tags}
        context, origin = tags.get("mlflow.data.context", ""), tags.get("run_id", "")
        uses.append(DatasetUse(use.dataset.name, use.dataset.digest, context, origin))
    return uses


def download(run_id: str, path: str) -> Path | None:
    """Download an artifact into a temporary folder; None if the run has no such artifact."""
    try:
        return Path(MlflowClient().download_artifacts(run_id, path))
    except (MlflowException, OSError):
        return None
