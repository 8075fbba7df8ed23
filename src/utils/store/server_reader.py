"""The runs of a store that is a server or a shared database, to be read: MLflow's client is asked."""

from collections.abc import Sequence
from pathlib import Path

from src.utils.store.mlflow import open_store
from src.utils.store.reader import DatasetUse, RunRecord, Value, moment

from mlflow.entities import Run as StoredRun
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient


class ServerReader:
    """Reads all runs at once, and answers from them."""

    def __init__(self) -> None:
        self.client = open_store()
        self.experiments = {one.experiment_id: one.name for one in self.client.search_experiments()}
        self._runs: dict[bool, dict[str, StoredRun]] = {}

    def headers(self, deleted: bool = False) -> list[RunRecord]:
        return [self._entry(run) for run in self._read(deleted).values()]

    def filled(self, records: Sequence[RunRecord]) -> list[RunRecord]:
        return list(records)  # they are from the beginning

    def column(self, kind: str, key: str) -> dict[str, Value]:
        found = {run_id: getattr(run.data, kind).get(key) for run_id, run in self._read().items()}
        return {run_id: value for run_id, value in found.items() if value is not None}

    def keys(self, kind: str) -> set[str]:
        return {key for run in self._read().values() for key in getattr(run.data, kind)}

    def inputs(self, run_id: str) -> list[DatasetUse]:
        found = []
        inputs = self.client.get_run(run_id).inputs
        for one in inputs.dataset_inputs if inputs else ():
            tags = {tag.key: tag.value for tag in one.tags}
            context, origin = tags.get("mlflow.data.context", ""), tags.get("run_id", "")
            found.append(DatasetUse(one.dataset.name, one.dataset.digest, context, origin))
        return found

    def _read(self, deleted: bool = False) -> dict[str, StoredRun]:
        if deleted not in self._runs:
            view = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
            self._runs[deleted] = {run.info.run_id: run for run in self._pages(view)}
        return self._runs[deleted]

    def _pages(self, view: int) -> list[StoredRun]:
        runs: list[StoredRun] = []
        token: str | None = None
        while token is None or token:
            page = self.client.search_runs(
                list(self.experiments),
                run_view_type=view,
                max_results=1000,
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
            runs, token = runs + list(page), page.token or ""
        return runs

    def _entry(self, run: StoredRun) -> RunRecord:
        info, data = run.info, run.data
        return RunRecord(
            info.run_id,
            info.run_name,
            self.experiments[info.experiment_id],
            info.status,
            moment(info.start_time),
            moment(info.end_time),
            info.artifact_uri,
            data.params,
            data.metrics,
            data.tags,
        )


def download(run_id: str, path: str) -> Path | None:
    """An artifact, fetched into a temporary folder; None where there is none."""
    try:
        return Path(MlflowClient().download_artifacts(run_id, path))
    except (MlflowException, OSError):
        return None
