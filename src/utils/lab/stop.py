"""`lab stop`: end the workers of a study or of a single run. They save what they are running."""

import os
from collections.abc import Iterable
from typing import Any

from src.utils.errors import UserError
from src.utils.lab.studies import STORAGE, study_store, workers_as_dicts
from src.utils.paths import STUDIES
from src.utils.process import is_gone
from src.utils.store.reference import find_record
from src.utils.study.overview import list_studies, read_overviews
from src.utils.study.study import PROCESS
from src.utils.terminal import lab_command, print_hints
from src.utils.workers.engine import find_engine
from src.utils.workers.job import Submitted, jobs_of, saved_jobs
from src.utils.workers.states import WorkerStates, ask_engines

from optuna.study._frozen import FrozenStudy
from rich import get_console

JOB = "workers.job"  # tag of a run: the job whose worker it is of


def stop(reference: str) -> list[WorkerStates]:
    """Cancel the jobs of a study, or the job of a single run, that have not ended.

    Returns:
        What their workers were doing.

    Raises:
        UserError: there is no such study or run, it has no workers, or the engine can't be asked.
    """
    study = _find_study(reference)
    jobs = jobs_of(study.user_attrs) if study else _jobs_of_run(reference)
    if not jobs:
        processes = _processes_of_study(study) if study else _processes_of_run(reference)
        raise UserError(f"{reference} has no workers; {_how_to_stop(list(processes))}")
    workers = [its for its in ask_engines(jobs) if not its.have_ended]
    for its in workers:
        find_engine(its.job.engine).cancel(its.job)
    return workers


def _find_study(name: str) -> FrozenStudy | None:
    if not os.environ.get(STORAGE) and not STUDIES.exists():
        return None
    return next((one for one in list_studies(study_store()) if one.study_name == name), None)


def _jobs_of_run(reference: str) -> list[Submitted]:
    """By the name of the job, too: it is known before there is a run."""
    known = {job.name: job for job in saved_jobs()}
    name = reference if reference in known else find_record(reference).tags.get(JOB)
    return [known[name]] if name in known else []


def _processes_of_study(study: FrozenStudy) -> Iterable[str]:
    (overview,) = read_overviews(study_store(), [study])
    return {trial.user_attrs[PROCESS] for trial in overview.running if PROCESS in trial.user_attrs}


def _processes_of_run(reference: str) -> Iterable[str]:
    record = find_record(reference)
    process = record.tags.get("process", "")
    return [process] if record.status == "RUNNING" and process and not is_gone(process) else []


def _how_to_stop(processes: list[str]) -> str:
    if not processes:
        return "nothing of it runs"
    places = [f"{pid} on {host}" for host, pid, _ in map(str.split, sorted(processes))]
    return f"Ctrl-C ends its process where it runs ({', '.join(places)})"


def print_stopped(reference: str, workers: list[WorkerStates]) -> None:
    """Print what was cancelled."""
    if not workers:
        get_console().print(f"all workers of {reference} had ended already", highlight=False)
        return
    for its in workers:
        get_console().print(f"cancelled  {its}", highlight=False, soft_wrap=True)
    get_console().print("they save what they are running, and end within a minute or two")
    print_hints({"look": f"{lab_command()} studies"})


def as_dict(reference: str, workers: list[WorkerStates]) -> dict[str, Any]:
    """What was cancelled, as --json prints it."""
    return {"name": reference, "workers": workers_as_dicts(workers)}
