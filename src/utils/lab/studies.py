"""`lab studies`: how far each search is and what of it runs where; of one study, its trials and workers.

Everything is read from the study store, which several machines may share: `OPTUNA_STORAGE`, or the SQLite
file in `logs/optuna`. Only of workers their engine is asked, too.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any

from src.utils.errors import UserError
from src.utils.paths import STUDIES, Experiment
from src.utils.store.record import REASON
from src.utils.study.overview import Overview
from src.utils.study.storage import open_storage
from src.utils.study.study import PROCESS, host_of
from src.utils.terminal import (
    format_age,
    format_duration,
    format_metric,
    format_settings,
    lab_command,
    print_hints,
    run_command,
)

from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial
from rich import box, get_console
from rich.markup import escape
from rich.table import Table

STORAGE = "OPTUNA_STORAGE"  # environment variable
STYLES = {"running": "yellow", "stopped": "red"}


def study_storage() -> RDBStorage:
    """Open the study store that `OPTUNA_STORAGE` names, or the default one.

    Raises:
        UserError: there are no studies yet, or the storage can't be opened.
    """
    url = os.environ.get(STORAGE)
    if not url and not STUDIES.exists():
        raise UserError("there are no studies yet: a program with -m and a range makes the first")
    storage = open_storage(url)
    assert isinstance(storage, RDBStorage)  # there are no others
    return storage


def print_studies(overviews: Sequence[Overview], total: int) -> None:
    """Print a table of studies, two lines each."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("study", overflow="fold")
    table.add_column("trials", no_wrap=True)
    table.add_column("best", justify="right", no_wrap=True)
    table.add_column("runs on", overflow="fold")
    for one in overviews:
        cells = (
            f"{one.name}\n{one.experiment}, {format_age(one.started)}",
            "\n".join(_counts(one)),
            f"{_best_value(one)}\n{one.metric}",
            "\n".join([", ".join(one.hosts)]),
        )
        table.add_row(*map(escape, cells), style=STYLES.get(one.state, ""))
    get_console().print(table)
    count = f"{len(overviews)} of {total}" if total > len(overviews) else f"{total}"
    caption = f"{count} stud{'y' if total == 1 else 'ies'} · lab studies NAME shows one"
    get_console().print(caption, style="dim", highlight=False)


def _counts(one: Overview) -> list[str]:
    """`12/200` and `4 running, 1 failed`"""
    parts = [
        f"{len(one.running)} running" if one.running else "",
        f"{one.failed} failed" if one.failed else "",
    ]
    total = f"{one.finished}/{one.n_trials}"
    return [total, ", ".join(filter(None, parts)) or one.state]


def _best_value(one: Overview) -> str:
    return format_metric(one.best.value) if one.best else ""


def print_study(one: Overview) -> None:
    """Print one study: its best trial, its workers, the trials that run, and commands to type next."""
    console = get_console()
    console.print(f"[bold]{escape(one.name)}[/]  {one.experiment}  {one.state}", highlight=False)
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for title, lines in _sections(one):
        if lines:
            grid.add_row(title, escape("\n".join(lines)))
    console.print(grid, highlight=False)
    if one.running:
        console.print(_running_table(one.running), highlight=False)
    print_hints(_next_commands(one))


def _sections(one: Overview) -> Iterator[tuple[str, list[str]]]:
    yield "trials", [", ".join(_counts(one))]
    if one.best:
        settings = format_settings(one.best.params)
        value = f"{one.metric} {_best_value(one)}".strip()
        yield "best", [f"{value} in trial {one.best.number}: {settings}"]


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
    """The last value that a trial has reported, and its step."""
    values = trial.intermediate_values
    return f"{format_metric(values[max(values)])} at {max(values)}" if values else ""


def _age(trial: FrozenTrial) -> str:
    return format_duration(datetime.now() - trial.datetime_start if trial.datetime_start else None)


def _next_commands(one: Overview) -> dict[str, str]:
    lab, name = lab_command(), shlex.quote(one.name)
    commands = {"runs": f"{lab} show {name}"}
    if one.state == "running":
        commands["follow"] = f"{lab} studies {name} --follow"
    if one.state == "stopped":
        program = run_command(Experiment.named(one.experiment))
        commands["resume"] = f"{program} -m resume_study={name}"
    return commands


def as_dict(one: Overview) -> dict[str, Any]:
    """A study as --json prints it."""
    return {
        "name": one.name,
        "experiment": one.experiment,
        "state": one.state,
        "started": one.started.astimezone() if one.started else None,
        "n_trials": one.n_trials,
        "finished": one.finished,
        "failed": one.failed,
        "metric": one.metric or None,
        "best": _as_dict(one.best) if one.best else None,
        "running": [_as_dict(trial) for trial in one.running],
    }


def _as_dict(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "trial": trial.number,
        "run": _run_id(trial) or None,
        "host": host_of(trial) or None,
        "params": trial.params,
        "value": trial.values[0] if trial.values else None,
        "reported": list(trial.intermediate_values.values())[-1:],
    }
