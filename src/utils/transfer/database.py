"""A store with a database of MLflow: the own one, another clone, a folder in which only `logs/` came back.

Runs are read and written as rows of MLflow's own tables (`src/utils/transfer/tables.py`), so that they keep
their ids. The artifacts of a SQLite store lie beside it, whatever absolute paths it has stored: it may have
been made on another machine.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from src.utils.errors import UserError, first_line
from src.utils.paths import LOGS, MAIN_CHECKOUT
from src.utils.store.experiment_page import KIND
from src.utils.store.location import (
    DEFAULT_DATABASE,
    SQLITE,
    local_database,
    mask_password,
    tracking_uri,
)
from src.utils.store.mlflow import create_store, open_store
from src.utils.store.record import NOTE
from src.utils.transfer.artifacts import copy_files
from src.utils.transfer.lock import writer_lock
from src.utils.transfer.place import Copied, Report
from src.utils.transfer.portable import STUDY, STUDY_PAGE, PortableRun, note_with_study
from src.utils.transfer.project import ProjectFiles
from src.utils.transfer.tables import artifact_uri, read_history, read_run, read_runs, write_run

import mlflow
from alembic.script import ScriptDirectory
from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.store.db.utils import _get_alembic_config
from mlflow.tracking import MlflowClient
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import SQLAlchemyError

STORE = Path("logs", "mlruns", "mlflow.db")  # in a clone
BUSY = 60  # seconds to wait for another process that writes to a SQLite file


class DatabasePlace(ProjectFiles):
    """A database of MLflow, and the folder of its artifacts.

    Raises:
        UserError: it can't be read, or another version of MLflow has made it.
    """

    def __init__(self, name: str, uri: str, artifacts: Path, project: Path, logs: Path) -> None:
        """Open it; nothing is written yet.

        Args:
            name: as it was typed.
            uri: of the database, as MLflow takes it.
            artifacts: the folder of its artifacts.
            project: the folder that has `_data`.
            logs: the folder that has the studies and the code of runs.
        """
        self.name, self.uri, self.root = name, uri, artifacts
        self.project, self.logs = project, logs
        self._check_version()

    @classmethod
    def own(cls) -> "DatabasePlace":
        """The store of this project, which is created if it is new."""
        open_store()
        database = local_database()
        root = database.parent if database else DEFAULT_DATABASE.parent
        return cls("this project", tracking_uri(), root, MAIN_CHECKOUT, LOGS)

    @classmethod
    def of_folder(cls, name: str, database: Path) -> "DatabasePlace":
        """The store of another clone, or a copy of one, by its `mlflow.db`, which is created if it is new."""
        logs = database.parent.parent
        if not database.exists():
            create_store(database)
        return cls(name, f"{SQLITE}{database}", database.parent, logs.parent, logs)

    def runs(self) -> list[PortableRun]:
        with self._reading() as connection:
            return list(read_runs(connection).values())

    def read(self, run_id: str) -> PortableRun:
        with self._reading() as connection:
            return read_run(connection, run_id)

    def with_history(self, run: PortableRun) -> PortableRun:
        if run.is_running:
            return self.read(run.id)
        with self._reading() as connection:
            return replace(run, history=read_history(connection, run.id))

    @contextmanager
    def artifacts(self, run: PortableRun) -> Iterator[Path]:
        yield self._folder(run)

    def write_artifacts(self, run: PortableRun, source: Path, report: Report) -> Copied:
        return copy_files(source, self._folder(run), report)

    def write(self, run: PortableRun) -> None:
        number, folder = self._experiment(run.experiment), self._folder(run)
        folder.mkdir(parents=True, exist_ok=True)
        with _one_line(self.name), self._writer.begin() as connection:
            write_run(connection, run, number, str(folder))
        if STUDY_PAGE.search(run.tags.get(NOTE, "")):
            self._link_to_dashboard(run.tags.get(STUDY, ""))

    def lock(self) -> AbstractContextManager[object]:
        self.root.mkdir(parents=True, exist_ok=True)
        return writer_lock(self.root / ".transfer.lock", self.name)

    def write_study(self, name: str, file: Path) -> bool:
        changed = super().write_study(name, file)
        self._link_to_dashboard(name)
        return changed

    def _link_to_dashboard(self, name: str) -> None:
        """Let the description of a study's run name the study by the number that it has here."""
        from src.utils.transfer.study_files import run_and_number  # late: it imports Optuna

        found = run_and_number(self.studies, name)
        if found is None:
            return
        with suppress(MlflowException):  # its run has not come along
            note = self._client.get_run(found[0]).data.tags.get(NOTE, "")
            if (new := note_with_study(note, found[1])) != note:
                self._client.set_tag(found[0], NOTE, new)

    def experiment_number(self, name: str) -> str:
        return str(self._experiment(name))

    def _folder(self, run: PortableRun) -> Path:
        """Of the artifacts of a run. A path of another `mlruns` stands for the same one in this store's."""
        with self._reading() as connection:
            stored = artifact_uri(connection, run.id).removeprefix("file://")
        _, marker, inside = stored.rpartition(f"/{self.root.name}/")
        if marker:
            return self.root / inside
        default = self.root / run.experiment / run.id / "artifacts"
        return Path(stored) if stored and Path(stored).is_dir() else default

    def _experiment(self, name: str) -> int:
        if name not in self._experiments:
            found = self._client.get_experiment_by_name(name)
            if found is None:
                number = self._client.create_experiment(name, str(self.root / name), KIND)
                found = self._client.get_experiment(number)
            if found.lifecycle_stage == LifecycleStage.DELETED:
                raise UserError(
                    f"{self.name}: the MLflow experiment {name} was deleted there: "
                    f"mlflow experiments restore -x {found.experiment_id}"
                )
            self._experiments[name] = int(found.experiment_id)
        return self._experiments[name]

    @cached_property
    def _experiments(self) -> dict[str, int]:
        """The numbers of experiments, by name."""
        return {}

    @cached_property
    def _client(self) -> MlflowClient:
        return MlflowClient(self.uri)

    @cached_property
    def _writer(self) -> Engine:
        return _engine(self.uri)

    @cached_property
    def _reader(self) -> Engine:
        """A SQLite file on a read-only disk can't have the files that readers of it share."""
        if not self.uri.startswith(SQLITE):
            return self._writer
        database = Path(self.uri.removeprefix(SQLITE))
        mode = "mode=ro" if os.access(database.parent, os.W_OK) else "mode=ro&immutable=1"
        return _engine(f"{SQLITE}file:{database}?{mode}&uri=true")

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with _one_line(self.name), self._reader.connect() as connection:
            yield connection

    def _check_version(self) -> None:
        """Refuse the tables of another version of MLflow."""
        get_config: Any = _get_alembic_config  # it has no types
        scripts = ScriptDirectory.from_config(get_config(db_url=""))
        with self._reading() as connection:
            found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        if found == scripts.get_current_head():
            return
        if any(script.revision == found for script in scripts.walk_revisions()):
            raise UserError(
                f"{self.name} was written by an earlier MLflow than {mlflow.__version__}, which is here: "
                f"upgrade it by mlflow db upgrade {mask_password(self.uri)}"
            )
        raise UserError(
            f"{self.name} was written by a later MLflow than {mlflow.__version__}, which is here: "
            "upgrade mlflow in this project"
        )


def _engine(uri: str) -> Engine:
    is_sqlite = uri.startswith(SQLITE)
    return create_engine(uri, connect_args={"timeout": BUSY} if is_sqlite else {})


@contextmanager
def _one_line(name: str) -> Iterator[None]:
    """Say what a database refuses in one line."""
    try:
        yield
    except SQLAlchemyError as error:
        raise UserError(f"the store of {name} answers: {first_line(error)}") from None
