"""`lab studies`: how far each search is and what of it runs where; of one study, its workers and trials.

All of it is read from the study store, which several machines may share: `OPTUNA_STORAGE`, or the SQLite
file in `logs/optuna`. Engines are asked about the workers of studies that are not finished.
"""

import logging
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from src.utils.errors import UserError
from src.utils.paths import STUDIES, Experiment
from src.utils.store.location import STUDY_STORE
from src.utils.study.overview import Overview, find_study_named, list_studies, read_overviews
from src.utils.study.storage import open_storage
from src.utils.study.study import host_of
from src.utils.sweep.board import show_board
from src.utils.terminal import (
    TerminalHandler,
    format_age,
    format_duration,
    format_metric,
    format_settings,
    format_time,
    lab_command,
    print_hints,
    run_command,
)
from src.utils.workers.engine import find_engine
from src.utils.workers.job import jobs_of
from src.utils.workers.states import WorkerStates, ask_engines

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial
from rich import box, get_console
from rich.markup import escape
from rich.table import Table

STYLES = {"running": "yellow", "waiting": "yellow", "stopped": "dim"}


@dataclass(frozen=True)
class StudyState:
    """A study, and what works on it."""

    overview: Overview
    workers: list[WorkerStates]  # of jobs that have not ended

    @property
    def state(self) -> str:
        """`running`, `waiting` (for its workers to begin), `finished` or `stopped`."""
        if self.overview.running:
            return "running"
        if self.overview.is_finished:
            return "finished"
        return "waiting" if self.workers else "stopped"

    @property
    def hosts(self) -> list[str]:
        """The machines on which its trials run."""
        return sorted({host_of(trial) for trial in self.overview.running} - {""})


def study_store() -> RDBStorage:
    """Open the study store that `OPTUNA_STORAGE` names, or the default one.

    Raises:
        UserError: there are no studies yet, or the storage can't be opened.
    """
    url = os.environ.get(STUDY_STORE)
    if not url and not STUDIES.exists():
        raise UserError("there are no studies yet: a program with -m and a range makes the first")
    return open_storage(url)


def read_studies(limit: int) -> tuple[list[StudyState], int]:
    """The newest studies, and how many there are in all; a limit of 0 means all.

    Raises:
        UserError: there are no studies yet, or the storage can't be opened.
    """
    storage = study_store()
    studies = list_studies(storage)
    return _with_workers(read_overviews(storage, studies[: limit or None])), len(studies)


def read_study(name: str) -> StudyState:
    """The study of this name; `latest` is the newest.

    Raises:
        UserError: there is no such study, or the storage can't be opened.
    """
    storage = study_store()
    (found,) = _with_workers(read_overviews(storage, [find_study_named(storage, name)]))
    return found


def _with_workers(overviews: Sequence[Overview]) -> list[StudyState]:
    """Ask the engines of all of them at the same time."""
    jobs = {one.name: [] if one.is_finished else jobs_of(one.study.user_attrs) for one in overviews}
    asked = ask_engines([job for some in jobs.values() for job in some])
    return [
        StudyState(one, [its for its in asked if its.job in jobs[one.name] and not its.have_ended])
        for one in overviews
    ]


def follow(state: StudyState) -> None:
    """Show the live table of a study until it is done or Ctrl-C; nothing is submitted.

    Raises:
        UserError: nothing works on it.
    """
    name = state.overview.name
    if state.state == "stopped":
        raise UserError(f"nothing works on {name}; it goes on with {_resume_command(state)}")
    study = optuna.load_study(study_name=name, storage=study_store())
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[TerminalHandler()])
    show_board(study, [its.job for its in state.workers])


def print_studies(states: Sequence[StudyState], total: int) -> None:
    """Print a table of studies, two lines each."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("study", overflow="fold")
    table.add_column("trials", no_wrap=True)
    table.add_column("best", justify="right", no_wrap=True)
    table.add_column("runs on", overflow="fold")
    for state in states:
        one = state.overview
        cells = (
            f"{one.name}\n{one.experiment}{', ' + format_age(one.started) if one.started else ''}",
            "\n".join(_counts(state)),
            f"{_best_value(one)}\n{one.metric}",
            "\n".join(filter(None, [", ".join(state.hosts), *map(str, state.workers)])),
        )
        table.add_row(*map(escape, cells), style=STYLES.get(state.state, ""))
    get_console().print(table)
    count = f"{len(states)} of {total}" if total > len(states) else f"{total}"
    caption = f"{count} stud{'y' if total == 1 else 'ies'} · lab studies NAME shows one"
    get_console().print(caption, style="dim", highlight=False)


def _counts(state: StudyState) -> tuple[str, str]:
    """`12/200` and `4 running, 1 failed`; where no trial runs, the state of the study."""
    one = state.overview
    running = f"{len(one.running)} running" if one.running else state.state
    failed = [f"{one.failed} failed"] if one.failed else []
    return f"{one.finished}/{one.n_trials}", ", ".join([running, *failed])


def _best_value(one: Overview) -> str:
    return format_metric(one.best.value) if one.best else ""


def print_study(state: StudyState) -> None:
    """Print one study: its best trial, its workers, the trials that run, and commands to type next."""
    console, one = get_console(), state.overview
    console.print(f"[bold]{escape(one.name)}[/]  {one.experiment}", highlight=False)
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for title, lines in _sections(state):
        if lines:
            grid.add_row(title, escape("\n".join(lines)))
    console.print(grid, highlight=False)
    if one.running:
        console.print(_running_table(one.running), highlight=False)
    print_hints(_next_commands(state))


def _sections(state: StudyState) -> Iterator[tuple[str, list[str]]]:
    one = state.overview
    yield "started", [f"{format_time(one.started)}, {format_age(one.started)}"] * bool(one.started)
    yield "trials", [", ".join(_counts(state))]
    if one.best:
        settings = format_settings(one.best.params)
        value = f"{one.metric} {_best_value(one)}".strip()
        yield "best", [f"{value} in trial {one.best.number}: {settings}"]
    yield "workers", list(map(str, state.workers))


def _running_table(trials: Sequence[FrozenTrial]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("trial", "host", "run", "reported", "time"):
        table.add_column(column, no_wrap=True)
    table.add_column("settings", overflow="fold")
    for trial in trials:
        row = (str(trial.number), host_of(trial), _run_id(trial)[:8], _reported(trial), _age(trial))
        table.add_row(*map(escape, (*row, format_settings(trial.params))))
    return table


def _run_id(trial: FrozenTrial) -> str:
    return str(trial.user_attrs.get("run_id", ""))


def _reported(trial: FrozenTrial) -> str:
    """The last value that a trial has reported, and at which step."""
    values = trial.intermediate_values
    return f"{format_metric(values[max(values)])} at {max(values)}" if values else ""


def _age(trial: FrozenTrial) -> str:
    return format_duration(datetime.now() - trial.datetime_start if trial.datetime_start else None)


def _local(moment: datetime | None) -> datetime | None:
    """Optuna's times have no zone."""
    return moment.astimezone() if moment else None


def _next_commands(state: StudyState) -> dict[str, str]:
    lab, name = lab_command(), shlex.quote(state.overview.name)
    commands = {"show": f"{lab} show {name}"}
    if state.state in ("running", "waiting"):
        commands["follow"] = f"{lab} studies {name} --follow"
    for its in state.workers[-1:]:
        commands["output"] = find_engine(its.job.engine).follow(its.job)
        commands["stop"] = f"{lab} stop {name}"
    if state.state == "stopped":
        commands["resume"] = _resume_command(state)
    return commands


def _resume_command(state: StudyState) -> str:
    program = run_command(Experiment.named(state.overview.experiment))
    return f"{program} -m resume_study={shlex.quote(state.overview.name)}"


def as_dict(state: StudyState) -> dict[str, Any]:
    """A study as --json prints it."""
    one = state.overview
    return {
        "name": one.name,
        "experiment": one.experiment,
        "state": state.state,
        "started": one.started,
        "n_trials": one.n_trials,
        "finished": one.finished,
        "failed": one.failed,
        "metric": one.metric or None,
        "best": _trial(one.best) if one.best else None,
        "running": [_trial(trial) for trial in one.running],
        "workers": workers_as_dicts(state.workers),
    }


def _trial(trial: FrozenTrial) -> dict[str, Any]:
    reported = trial.intermediate_values
    return {
        "trial": trial.number,
        "run": _run_id(trial) or None,
        "host": host_of(trial) or None,
        "started": _local(trial.datetime_start),
        "params": trial.params,
        "value": trial.values[0] if trial.values else None,
        "reported": reported[max(reported)] if reported else None,
    }


def workers_as_dicts(workers: Sequence[WorkerStates]) -> list[dict[str, Any]]:
    """What workers are doing, as --json prints it."""
    return [
        {
            "engine": its.job.engine,
            "id": its.job.id,
            "count": its.job.count,
            "states": its.states,
            "problem": its.problem or None,
            "submitted": datetime.fromtimestamp(its.job.time).astimezone(),
            "logs": its.job.logs,
        }
        for its in workers
    ]
