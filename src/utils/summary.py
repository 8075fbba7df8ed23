"""What a person sees when a run is over: its figures, and the commands that come next."""

import re
import shutil

from rich import get_console
from rich.markup import escape
from rich.table import Table

from src.utils.layout import ROOT, Experiment
from src.utils.run import Run

SHOWN = ("test_acc", "test_loss", "val_acc", "val_loss", "train_acc", "train_loss")


def say_summary(run: Run, seconds: float) -> None:
    """Print the run's last metrics, its id, and how to browse, reload, search and copy."""
    figures = Table(title=f"{run.here}: {run.name}, {seconds:.1f} s", title_justify="left", show_header=False)
    latest = run.metrics.latest
    for name in [name for name in SHOWN if name in latest]:
        figures.add_row(name, f"{latest[name]:.4f}")
    figures.add_row("run id", run.id)
    get_console().print(figures)
    for what, command in next_commands(run).items():
        get_console().print(f"[bold]{what:7}[/] {escape(command)}", highlight=False, soft_wrap=True)


def next_commands(run: Run) -> dict[str, str]:
    python = "poetry run python" if shutil.which("poetry") else ".venv/bin/python"
    program = run.here.program().relative_to(ROOT)
    copy = _next_name(run.here)
    stage, name = run.here.stage, run.here.name
    return {
        "browse": "bash scripts/mlflow_ui.sh",
        "reload": f'{python} -c \'from src.utils.tracking import load_model; print(load_model("{run.id[:8]}"))\'',
        "search": f"{python} {program} -m 'learning_rate=interval(0.001,0.002)'",
        "copy": f"cp -r src/{stage}/{name} src/{stage}/{copy} && cp -r config/{stage}/{name} config/{stage}/{copy}",
    }


def _next_name(here: Experiment) -> str:
    """model01 -> model02, or the first number after it that is free."""
    stem, digits = re.fullmatch(r"(.*?)(\d*)", here.name).groups()  # type: ignore[union-attr]  # matches anything
    number = int(digits or 1) + 1
    while (here.source.parent / f"{stem}{number:0{len(digits) or 2}}").exists():
        number += 1
    return f"{stem}{number:0{len(digits) or 2}}"
