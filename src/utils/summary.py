"""What a person sees when a run is over: its figures, and the commands that come next."""

import re
import shutil
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from src.utils.layout import ROOT, Experiment
from src.utils.run import Run

from rich import get_console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

SHOWN = ("test_acc", "test_loss", "val_acc", "val_loss", "train_acc", "train_loss")
SHOWN_TRIALS = 5
STATES = {"fail": "failed"}


def say_summary(run: Run, seconds: float) -> None:
    """Print the run's last metrics, its id, and how to browse, reload, search and copy."""
    figures = Table(
        title=f"{run.here}: {run.name}, {seconds:.1f} s", title_justify="left", show_header=False
    )
    latest = run.metrics.latest
    for name in [name for name in SHOWN if name in latest]:
        figures.add_row(name, f"{latest[name]:.4f}")
    figures.add_row("run id", run.id)
    get_console().print(figures)
    _say_commands(next_commands(run))


def next_commands(run: Run) -> dict[str, str]:
    """What a person may want to type next."""
    program, here, copy = run.here.program().relative_to(ROOT), run.here, _next_name(run.here)
    copies = [f"cp -r {top}/{here} {top}/{here.stage}/{copy}" for top in ("src", "config")]
    return {
        "browse": "bash scripts/mlflow_ui.sh",
        "reload": _reload(run.id[:8]),
        "search": f"{python()} {program} -m 'learning_rate=interval(0.001,0.002)'",
        "copy": " && ".join(copies),
    }


def _reload(reference: str) -> str:
    code = f'from src.utils.tracking import load_model; print(load_model("{reference}"))'
    return f"{python()} -c '{code}'"


def _next_name(here: Experiment) -> str:
    """model01 -> model02, or the first number after it that is free."""
    stem, digits = re.fullmatch(r"(.*?)(\d*)", here.name).groups()  # type: ignore[union-attr]  # matches anything
    number = int(digits or 1) + 1
    while (here.source.parent / f"{stem}{number:0{len(digits) or 2}}").exists():
        number += 1
    return f"{stem}{number:0{len(digits) or 2}}"


def say_study(study: "optuna.Study", here: Experiment) -> None:
    """Print what a search has found, and how to go on."""
    trials = study.get_trials(deepcopy=False)
    states = Counter(trial.state.name.lower() for trial in trials)
    counts = ", ".join(f"{number} {STATES.get(state, state)}" for state, number in states.items())
    get_console().print(f"\n[bold]{study.study_name}[/]: {counts}", highlight=False, soft_wrap=True)
    table = Table("trial", "value", "parameters", "run")
    for trial in _shown(study):
        values = ", ".join(map(figure, trial.values))
        run_id = trial.user_attrs.get("run_id", "")
        table.add_row(str(trial.number), values, escape(spell(trial.params)), run_id[:8])
    if len(study.directions) > 1:
        table.title, table.title_justify = "the Pareto front", "left"
    if table.rows:
        get_console().print(table)
    total = study.user_attrs["n_trials"]
    more = "" if study.user_attrs["grid"] or len(trials) < total else f" n_trials={2 * total}"
    _say_commands(
        {
            "browse": "bash scripts/mlflow_ui.sh",
            "study": "bash scripts/optuna_dashboard.sh",
            **({"reload": _reload(study.study_name)} if states["complete"] else {}),
            "go on": f"{python()} {here.program().relative_to(ROOT)} -m "
            f"resume={study.study_name}{more.replace(' ', ' hydra.sweeper.')}",
        }
    )


def _shown(study: "optuna.Study") -> list["FrozenTrial"]:
    """The best few trials, or the whole Pareto front."""
    done = [one for one in study.get_trials(deepcopy=False) if one.state.name == "COMPLETE"]
    if len(study.directions) > 1:
        return study.best_trials
    upwards = study.direction.name == "MAXIMIZE"
    return sorted(done, key=lambda one: one.value or 0.0, reverse=upwards)[:SHOWN_TRIALS]


def duration(time: timedelta | None) -> str:
    """`8 s`, `2 min 5 s`, `3 h 20 min`"""
    seconds = round(time.total_seconds()) if time else 0
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes} min {seconds} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def figure(value: float) -> str:
    """`0.9871`, `3.2e-05`, `1.2e+06`"""
    plain = value == 0 or 1e-3 <= abs(value) < 1e5
    return f"{value:.4f}" if plain else f"{value:.4g}"


def spell(params: dict[str, Any]) -> str:
    """`learning_rate=0.0012 hidden=64`"""
    return " ".join(
        f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in params.items()
    )


def python() -> str:
    """How the environment's Python is called here."""
    return "poetry run python" if shutil.which("poetry") else ".venv/bin/python"


def _say_commands(commands: dict[str, str]) -> None:
    for what, command in commands.items():
        get_console().print(f"[bold]{what:7}[/] {escape(command)}", highlight=False, soft_wrap=True)
