"""An MLflow server as a place of runs, by MLflow's own client.

A server chooses the ids of its runs. Two tags say what a run of it is:

    origin.run_id         the id that the run has everywhere else
    origin.transferred    when it was written last, in milliseconds; without this tag it is incomplete

Ids of runs in tags and notes (the study of a trial, the runs of a blend, links) are translated both ways: the
server's pages link to its own runs, and a pull gives back the run that was pushed. A run that was made on the
server itself has the server's id everywhere.
"""

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from src.utils.errors import UserError, first_line
from src.utils.paths import LOGS, MAIN_CHECKOUT
from src.utils.runs.kept_code import KEPT, PACK, add_commits, fetch_code, pack_commit
from src.utils.store.location import tracking_uri
from src.utils.store.mlflow import check_server, experiment_id
from src.utils.transfer.artifacts import list_files
from src.utils.transfer.place import Copied, Place, Report
from src.utils.transfer.portable import (
    COMMIT,
    Point,
    PortableRun,
    point_order,
)
from src.utils.transfer.project import ProjectFiles
from src.utils.transfer.server_runs import (
    missing_metrics,
    point_of,
    portable_run,
    server_datasets,
    server_tags,
    translate,
)

from mlflow.entities import (
    LifecycleStage,
    Param,
    RunTag,
    ViewType,
)
from mlflow.entities import Run as StoredRun
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from requests.exceptions import RequestException

ORIGIN, TRANSFERRED = "origin.run_id", "origin.transferred"
OWN_TAGS = (ORIGIN, TRANSFERRED, PACK)
PROVENANCE = "provenance"  # the artifact folder that has the code
USER, UNKNOWN = "mlflow.user", "unknown"
PAGE = 1000  # runs of one request
UPLOADS = 4  # files at a time


class ServerPlace(Place):
    """An MLflow server. It keeps no studies and no data.

    Raises:
        UserError: the server doesn't answer.
    """

    keeps_files = False

    def __init__(self, name: str, uri: str) -> None:
        """Open it.

        Args:
            name: as it was typed, without a password.
        """
        self.name = name
        check_server(uri, "")
        self.client = MlflowClient(uri)
        self._ids: dict[str, str] = {}  # the server's id of each run
        self._origins: dict[str, str] = {}  # the other way round
        self._tags: dict[str, dict[str, str]] = {}  # as the server has them, by its ids
        self._experiments: dict[str, tuple[str, str]] = {}  # name and lifecycle, by number
        self._started: dict[str, int] = {}  # when the artifacts of a run were written

    def runs(self) -> list[PortableRun]:
        with _one_line(self.name):
            found = self.client.search_experiments(view_type=ViewType.ALL)
            self._experiments = {
                one.experiment_id: (one.name, one.lifecycle_stage) for one in found
            }
            stored = {run.info.run_id: run for run in self._search()}
        self._tags = {one: dict(run.data.tags) for one, run in stored.items()}
        for server_id in sorted(stored, key=self._is_complete):  # of two with one origin it wins
            self._remember(self._tags[server_id].get(ORIGIN, server_id), server_id)
        return [self._portable(stored[one]) for one in self._ids.values() if self._is_complete(one)]

    def read(self, run_id: str) -> PortableRun:
        with _one_line(self.name):
            return self._read(self._ids[run_id])

    @contextmanager
    def artifacts(self, run: PortableRun) -> Iterator[Path]:
        """The files get the time at which the run was last active: they are the same at the next download."""
        with tempfile.TemporaryDirectory() as folder:
            with _one_line(self.name):
                if self.client.list_artifacts(self._ids[run.id]):
                    self.client.download_artifacts(self._ids[run.id], "", folder)
            Path(folder, PROVENANCE, PACK).unlink(missing_ok=True)
            for file in list_files(Path(folder)):
                os.utime(Path(folder, file), (run.activity / 1000,) * 2)
            yield Path(folder)

    def write_artifacts(self, run: PortableRun, source: Path, report: Report) -> Copied:
        """Files that have changed since the last transfer, and those of another size, are uploaded."""
        self._started[run.id] = _now()
        with _one_line(self.name):
            is_new, server_id = run.id not in self._ids, self._server_id(run)
            present = {} if is_new else dict(self._files(server_id))
            last = int(self._tags[server_id].get(TRANSFERRED, 0)) / 1000

            def upload(file: Path) -> Copied:
                return self._upload(server_id, source, file, present, last)

            copied = Copied()
            with ThreadPoolExecutor(UPLOADS) as uploads:
                for one in uploads.map(upload, list_files(source)):
                    report(one.size)
                    copied = copied.plus(one)
        return copied

    def write(self, run: PortableRun) -> None:
        """What the server refuses to change, the value of a parameter, stays."""
        with _one_line(self.name):
            server_id = self._server_id(run)
            before = self._read(server_id)
            params = run.params.keys() - before.params.keys()
            self.client.log_batch(
                server_id,
                metrics=[*missing_metrics(run, before)],
                params=[Param(name, run.params[name]) for name in sorted(params)],
            )
            if run.datasets:
                self.client.log_inputs(server_id, server_datasets(run, self._ids))
            self._write_tags(server_id, run)
            self._write_state(server_id, run)
            stamp = {ORIGIN: run.id, TRANSFERRED: str(self._started.get(run.id, _now()))}
            self._set_tags(server_id, stamp)

    # Code: an artifact of one run of each commit, as the runs of a project whose store is a server have it

    def has_code(self, commit: str) -> bool:
        return any(tags.get(PACK) == commit for tags in self._tags.values())

    @contextmanager
    def repositories(self, commits: Sequence[str]) -> Iterator[list[Path]]:
        with _one_line(self.name):
            for commit in commits:
                fetch_code(self.client, commit)
        yield [KEPT]

    def add_code(self, repository: Path, commits: Sequence[str]) -> None:
        """The first run of each commit gets it."""
        add_commits(KEPT, repository, commits)
        with _one_line(self.name):
            of_commits = {tags.get(COMMIT): one for one, tags in reversed(self._tags.items())}
            for commit in commits:
                self._share_code(of_commits[commit], commit)

    def _share_code(self, server_id: str, commit: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = pack_commit(commit, Path(folder))
            self.client.log_artifact(server_id, str(file), PROVENANCE)
        self._set_tags(server_id, {PACK: commit})

    # Reading

    def _search(self) -> Iterator[StoredRun]:
        token: str | None = None
        while token is None or token:
            page = self.client.search_runs(
                [*self._experiments],
                run_view_type=ViewType.ALL,
                max_results=PAGE,
                page_token=token,
            )
            yield from page
            token = page.token or ""

    def _remember(self, run_id: str, server_id: str) -> None:
        self._ids[run_id], self._origins[server_id] = server_id, run_id

    def _is_complete(self, server_id: str) -> bool:
        tags = self._tags[server_id]
        return TRANSFERRED in tags or ORIGIN not in tags

    def _read(self, server_id: str) -> PortableRun:
        run = self.client.get_run(server_id)
        names = run.data.metrics
        return self._portable(run, {name: self._history(server_id, name) for name in names})

    def _history(self, server_id: str, metric: str) -> list[Point]:
        points = self.client.get_metric_history(server_id, metric)
        return sorted((point_of(one) for one in points), key=point_order)

    def _portable(
        self, run: StoredRun, history: Mapping[str, list[Point]] | None = None
    ) -> PortableRun:
        experiment = self._experiments[run.info.experiment_id]
        found = portable_run(run, experiment, self._origins, history)
        tags = {name: value for name, value in found.tags.items() if name not in OWN_TAGS}
        return replace(found, tags=tags)

    def _files(self, server_id: str, folder: str | None = None) -> Iterator[tuple[str, int]]:
        """The sizes of all artifacts of a run, by path."""
        for one in self.client.list_artifacts(server_id, folder):
            if one.is_dir:
                yield from self._files(server_id, one.path)
            else:
                yield one.path, one.file_size or 0

    # Writing

    def _server_id(self, run: PortableRun) -> str:
        if run.id not in self._ids:
            self._create(run)
        return self._ids[run.id]

    def _create(self, run: PortableRun) -> None:
        """Create a run, and let the runs that name it do so by its new id."""
        number = self._experiment_number(run.experiment)
        tags = {ORIGIN: run.id} | ({} if run.user in ("", UNKNOWN) else {USER: run.user})
        created = self.client.create_run(number, run.started, tags, run.name)
        new = created.info.run_id
        self._remember(run.id, new)
        for other, known in self._tags.items():
            named = {name: translate(value, {run.id: new}) for name, value in known.items()}
            self._set_tags(other, {k: v for k, v in named.items() if k not in OWN_TAGS})
        self._tags[new] = dict(created.data.tags)

    def _experiment_number(self, name: str) -> str:
        known = {(name, life): number for number, (name, life) in self._experiments.items()}
        number = known.get((name, LifecycleStage.ACTIVE)) or experiment_id(self.client, name)
        self._experiments[number] = (name, LifecycleStage.ACTIVE)
        return number

    def _upload(
        self, server_id: str, folder: Path, file: Path, present: Mapping[str, int], last: float
    ) -> Copied:
        with suppress(FileNotFoundError):  # a run that goes on has replaced it
            state = (folder / file).stat()
            if present.get(file.as_posix()) == state.st_size and state.st_mtime < last:
                return Copied()
            parent = file.parent.as_posix() if file.parent != Path() else None
            self.client.log_artifact(server_id, str(folder / file), parent)
            return Copied(1, state.st_size)
        return Copied()

    def _write_tags(self, server_id: str, run: PortableRun) -> None:
        tags = server_tags(run, self._experiment_number(run.experiment), self._ids)
        self._set_tags(server_id, tags)
        for name in self._tags[server_id].keys() - tags.keys() - {*OWN_TAGS}:
            self.client.delete_tag(server_id, name)
            del self._tags[server_id][name]

    def _set_tags(self, server_id: str, tags: Mapping[str, str]) -> None:
        known = self._tags[server_id]
        new = {name: value for name, value in tags.items() if known.get(name) != value}
        if new:
            self.client.log_batch(server_id, tags=[RunTag(*one) for one in new.items()])
            known.update(new)

    def _write_state(self, server_id: str, run: PortableRun) -> None:
        """Name, status and time: with the time it counts as up to date."""
        self.client.update_run(server_id, run.status, run.name)
        if run.ended is not None:
            self.client.set_terminated(server_id, run.status, run.ended)


class OwnServerPlace(ProjectFiles, ServerPlace):
    """The store of this project where `MLFLOW_TRACKING_URI` is a server; all else is in the project."""

    keeps_files = True

    def __init__(self) -> None:
        super().__init__("this project", tracking_uri())
        self.project, self.logs = MAIN_CHECKOUT, LOGS

    def experiment_number(self, name: str) -> str:
        return experiment_id(self.client, name)


def _now() -> int:
    return int(time.time() * 1000)


@contextmanager
def _one_line(name: str) -> Iterator[None]:
    """Say what a server refuses in one line."""
    try:
        yield
    except (MlflowException, RequestException) as error:
        raise UserError(f"{name} answers: {first_line(error)}") from None
