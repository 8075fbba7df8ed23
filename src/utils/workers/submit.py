"""Submitting a search or a run: the code is fixed, and one job is given to Slurm, Ray or Kubernetes.

A worker of a search is the same `-m` command, joined to the study by its name. A worker of a run is the same
command, too; started again, it resumes its run (`src/utils/runs/run_of_job.py`).
"""

import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from src.utils.config.overrides import override_key
from src.utils.config.worker_settings import RemoteWorkers, remote_workers
from src.utils.errors import UserError
from src.utils.notification import VARIABLE as NOTIFY
from src.utils.notification import notifier
from src.utils.paths import MAIN_CHECKOUT, ROOT, STUDIES, Experiment
from src.utils.pipeline.inputs import prepare_inputs
from src.utils.pipeline.pins import pins_of
from src.utils.process import BRANCH, INPUTS, WORKER
from src.utils.runs.provenance import git_state
from src.utils.settings import REFERENCES, Settings
from src.utils.store.location import (
    RUN_STORE,
    SQLITE,
    STUDY_STORE,
    is_server,
    mask_password,
    tracking_uri,
)
from src.utils.store.reference import find_record
from src.utils.terminal import lab_command, print_hints
from src.utils.workers.code import CODE, fix_code
from src.utils.workers.engine import Engine, find_engine
from src.utils.workers.job import WORKERS, Submitted, WorkerJob, job_folder

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf
from rich import get_console
from rich.markup import escape

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)
DATABASES = ("postgresql", "mysql", "mariadb")
HERE = re.compile(r"//([^/@]*@)?(localhost|127\.|\[::1\])")
# Beginnings of the environment variables that workers need: addresses and keys of stores
PASSED_ON = ("MLFLOW_", "OPTUNA_", "AWS_", "AZURE_", "GOOGLE_", "JIKKEN_NOTIFY_", "OMP_NUM_THREADS")
# Overrides by which a process joins a study: a worker has its own
JOINING = {"resume_study", "hydra.sweeper.study_name", "hydra.sweeper.storage"}
NOTHING: Mapping[str, str] = MappingProxyType({})
PLAIN_NAME = re.compile(r"[\w.+-]*[A-Za-z_-][\w.+-]*")


@dataclass(frozen=True)
class Submission:
    """What is to be submitted: the command of this process, without `workers=…`."""

    experiment: Experiment
    settings: Settings
    workers: RemoteWorkers
    study_store: str | None = None  # the URL that is set for a search; None: the default

    @property
    def engine(self) -> Engine:
        """What the job is submitted to."""
        return find_engine(self.workers.engine)

    def check(self, is_search: bool) -> None:
        """Check, before anything is written, that workers can be started, and can reach the stores.

        Raises:
            UserError: a store is a file of this machine, the engine isn't here, or a run is to have several
                workers.
        """
        count = self.workers.count
        if count != 1 and not is_search:
            raise UserError(f"workers.count={count} is for a search (-m): a run has one worker")
        study_store = (self.study_store or f"{SQLITE}{STUDIES}") if is_search else None
        check_stores(study_store)
        if not self.engine.uses_image:
            _warn_of_own_stores(study_store)
        if not self.workers.dry_run:
            self.engine.check(self.workers)

    def submit_study(self, study: "optuna.Study", is_resumed: bool, is_new: bool) -> None:
        """Submit workers for a study, with which all else is stored, and store that, too.

        Args:
            is_new: whether the study was made for this; without workers it is deleted again.

        Raises:
            UserError: the code can't be copied, or the engine refuses the job.
        """
        name = study.study_name
        try:
            submitted = self._submit(name, self._joining(name, is_resumed))
        except BaseException:
            if is_new:
                study._storage.delete_study(study._study_id)
            raise
        jobs = [*study.user_attrs.get(WORKERS, []), submitted.to_dict()]
        study.set_user_attr(WORKERS, jobs)
        _print_submitted(submitted)

    def print_study(self, study_name: str, is_resumed: bool) -> None:
        """Print what would be submitted for a study.

        Raises:
            UserError: the code can't be copied.
        """
        self._print(study_name, self._joining(study_name, is_resumed))

    def submit_run(self) -> None:
        """Prepare the inputs of a run and submit one worker, or print what would be submitted.

        Raises:
            UserError: an input or the code can't be prepared, or the engine refuses the job.
        """
        name = f"{self.experiment.name}-{datetime.now():%m-%d-%H-%M-%S}"
        if self.workers.dry_run:
            self._print(name, self._arguments())
            return
        pins = pins_of(prepare_inputs(self.settings))
        submitted = self._submit(name, self._arguments(), {INPUTS: json.dumps(dict(pins))})
        _print_submitted(submitted)
        follow = self.engine.follow(submitted)
        print_hints({"follow": follow, "stop": f"{lab_command()} stop {submitted.name}"})

    def _joining(self, study_name: str, is_resumed: bool) -> list[str]:
        """The arguments of a process that joins a study."""
        key = "resume_study" if is_resumed else "hydra.sweeper.study_name"
        is_plain = PLAIN_NAME.fullmatch(study_name)
        text = study_name if is_plain else QuotedString(study_name, Quote.single).with_quotes()
        return [*self._arguments(), f"{key}={text}"]

    def _arguments(self) -> list[str]:
        """The arguments of this process that its workers have, too."""
        keys = [(override_key(one), one) for one in sys.argv[1:]]
        kept = [(key, one) for key, one in keys if not _is_of_workers(key) and key not in JOINING]
        return [self._lasting(key, one) for key, one in kept]

    def _lasting(self, key: str, argument: str) -> str:
        """With the id of the run that is now the latest or the best one."""
        value = getattr(self.settings, key, None) if key in REFERENCES else None
        if value is None or argument.partition("=")[2].strip("'\"") != value:
            return argument
        return f"{key}={find_record(value, str(self.experiment)).id}"

    def _submit(
        self, name: str, arguments: list[str], environment: Mapping[str, str] = NOTHING
    ) -> Submitted:
        folder = _make_folder(name)
        try:
            job = self._job(folder.name, arguments, environment)
            submitted = self.engine.submit(job)
        except BaseException:
            shutil.rmtree(folder)
            raise
        notifier.typed = []  # the workers tell of it
        if not self.engine.uses_image:
            submitted = replace(submitted, code=str(job.folder.relative_to(CODE)))
        submitted.save()
        return submitted

    def _print(self, name: str, arguments: list[str]) -> None:
        job = self._job(job_folder(name).name, arguments)
        get_console().print(
            self.engine.render(job),
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    def _job(
        self, name: str, arguments: list[str], environment: Mapping[str, str] = NOTHING
    ) -> WorkerJob:
        folder = ROOT if self.engine.uses_image else fix_code(self.workers.dry_run)
        program = self.experiment.program().relative_to(ROOT)
        stores = {STUDY_STORE: self.study_store} if self.study_store else {}
        own = {"PYTHONPATH": str(folder), WORKER: name, RUN_STORE: tracking_uri()}
        state = git_state()
        branch = {BRANCH: state.branch} if state is not None else {}
        there = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
        command = [sys.executable, str(program), *arguments]
        variables = {**there, **own, **branch, **stores, **_notify(), **environment}
        return WorkerJob(name, command, folder, variables, self.workers)


def split_workers(overrides: Sequence[str], config: DictConfig) -> tuple[list[str], list[str]]:
    """Split overrides into those of a study, and `workers=…`, which is no part of it."""
    is_group = OmegaConf.is_dict(config.get("workers"))  # not a setting of the experiment's own
    mine = [one for one in overrides if is_group and _is_of_workers(override_key(one))]
    return [one for one in overrides if one not in mine], mine


def search_submission(
    experiment: Experiment, points: Sequence[Settings], study_store: str | None, is_forked: bool
) -> Submission | None:
    """What is to be submitted in place of running trials here; None without `workers=`.

    Args:
        points: settings of trials.
        is_forked: whether hydra/launcher=fork runs the trials.

    Raises:
        UserError: workers can't be started, or can't reach the stores.
    """
    workers = remote_workers(points[0]) if points else None
    if workers is None:
        return None
    if not is_forked:
        raise UserError(f"workers={workers.engine} needs hydra/launcher=fork, as each worker has")
    submission = Submission(experiment, points[0], workers, study_store)
    submission.check(is_search=True)
    return submission


def check_stores(study_store: str | None) -> None:
    """Check that other machines can reach the stores.

    Args:
        study_store: the URL of the study store; None for a run, which needs none.

    Raises:
        UserError: a store is a file of this machine.
    """
    uri = tracking_uri()
    if not is_server(uri):
        raise UserError(
            f"workers elsewhere record runs on an MLflow server, not in {_shown(uri)}: "
            f"set {RUN_STORE}=http://…"
        )
    if study_store is not None and not study_store.startswith(DATABASES):
        raise UserError(
            f"workers elsewhere share a study in a database server, not in {_shown(study_store)}: "
            f"set {STUDY_STORE}=postgresql+psycopg://…"
        )


def _warn_of_own_stores(study_store: str | None) -> None:
    """Warn of stores on this machine: the workers have the same addresses."""
    for name, url in ((RUN_STORE, tracking_uri()), (STUDY_STORE, study_store or "")):
        if HERE.search(url):
            log.warning(
                "%s=%s is this machine: each worker finds its own", name, mask_password(url)
            )


def _print_submitted(job: Submitted) -> None:
    many = "s" if job.count > 1 else ""
    text = (
        f"[bold]submitted[/] {job.count} worker{many} of {escape(job.name)}: {job.engine} {job.id}"
    )
    get_console().print(text, soft_wrap=True, highlight=False)


def _shown(url: str) -> str:
    return mask_password(url).replace(f"{MAIN_CHECKOUT}/", "")


def _is_of_workers(key: str) -> bool:
    return key.partition(".")[0] == "workers"


def _notify() -> dict[str, str]:
    """Whom the workers tell, if it was typed or is in the environment; config.yaml they have themselves."""
    if notifier.typed is None and (notifier.configured or NOTIFY not in os.environ):
        return {}
    texts = [QuotedString(one, Quote.single).with_quotes() for one in notifier.targets]
    return {NOTIFY: f"[{','.join(texts)}]"}


def _make_folder(name: str) -> Path:
    """The folder of a new job, which nobody else can read."""
    CODE.mkdir(parents=True, exist_ok=True)  # no job has its name
    folder, number = job_folder(name), 1
    while True:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            return folder
        number += 1
        folder = job_folder(f"{name}-{number}")
