"""`lab stop`: end the workers of a study or of a single run. They save what they are running."""

import os
from typing import Any

from src.utils.errors import UserError
from src.utils.lab.studies import study_store, workers_as_dicts
from src.utils.paths import STUDIES
from src.utils.process import is_gone
from src.utils.store.location import STUDY_STORE
from src.utils.store.record import JOB, RunRecord
from src.utils.store.reference import find_record
from src.utils.study.overview import list_studies, read_overviews
from src.utils.study.study import PROCESS
from src.utils.terminal import lab_command, print_hints
from src.utils.workers.engine import find_engine
from src.utils.workers.job import Submitted, jobs_of, saved_jobs
from src.utils.workers.states import WorkerStates, ask_engines

from optuna.study._frozen import FrozenStudy
from rich import get_console

STUDY = "optuna.study"  # tag of a run: the study that it is, or is a trial of


def stop(reference: str) -> list[WorkerStates]:
    """Cancel the jobs of a study, or the job of a single run, that have not ended.

    Returns:
        What their workers were doing.

    Raises:
        UserError: there is no such study or run, it has no workers, or the engine can't be asked.
    """
    jobs, processes = _find(reference)
    if not jobs:
        raise UserError(f"{reference} has no workers; {_how_to_stop(processes)}")
    workers = [its for its in ask_engines(jobs) if not its.have_ended]
    for its in workers:
        find_engine(its.job.engine).cancel(its.job)
    return workers


def _find(reference: str) -> tuple[list[Submitted], list[str]]:
    """The jobs of a study or run, and its processes that run. The name of a job will do, too."""
    study = _find_study(reference)
    if study is not None:
        return _of_study(study)
    submitted = {job.name: job for job in saved_jobs()}
    if reference in submitted:
        return [submitted[reference]], []
    record = find_record(reference)
    study = _find_study(record.tags.get(STUDY, ""))
    if study is None:
        job = submitted.get(record.tags.get(JOB, ""))
        return [job] if job else [], _processes(record)
    if not record.is_study:
        name = study.study_name
        raise UserError(f"{reference} is a trial of {name}: lab stop {name} ends all workers of it")
    return _of_study(study)


def _find_study(name: str) -> FrozenStudy | None:
    if not os.environ.get(STUDY_STORE) and not STUDIES.exists():
        return None
    return next((one for one in list_studies(study_store()) if one.study_name == name), None)


def _of_study(study: FrozenStudy) -> tuple[list[Submitted], list[str]]:
    (overview,) = read_overviews(study_store(), [study])
    processes = {trial.user_attrs.get(PROCESS, "") for trial in overview.running}
    return jobs_of(study.user_attrs), sorted(filter(None, processes))


def _processes(record: RunRecord) -> list[str]:
    process = record.tags.get("process", "")
    is_running = record.status == "RUNNING" and process and not is_gone(process)
    return [process] if is_running else []


def _how_to_stop(processes: list[str]) -> str:
    places = [f"{pid} on {host}" for host, pid, _ in map(str.split, processes)]
    if not places:
        return "nothing of it runs"
    return f"Ctrl-C ends its process where it runs ({', '.join(places)})"


def print_stopped(reference: str, workers: list[WorkerStates]) -> None:
    """Print what was cancelled."""
    if not workers:
        get_console().print(f"all workers of {reference} had ended already", highlight=False)
        return
    for its in workers:
        get_console().print(f"cancelled  {its}", highlight=False, soft_wrap=True)
    get_console().print("they save what they are running, and end within a minute or two")
    print_hints({"searches": f"{lab_command()} studies", "runs": f"{lab_command()} runs"})


def as_dict(reference: str, workers: list[WorkerStates]) -> dict[str, Any]:
    """What was cancelled, as --json prints it."""
    return {"name": reference, "workers": workers_as_dicts(workers)}
