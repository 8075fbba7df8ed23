"""What a person sees when a run is over: its figures, and the commands that come next."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from src.utils.run import Run
from src.utils.settings import Settings, TrainingSettings
from src.utils.store.objective import results
from src.utils.terminal import (
    copy_command,
    format_duration,
    format_metric,
    print_hints,
    reload_command,
    run_command,
)

from pydantic import ValidationError
from rich import get_console
from rich.table import Table

ROWS = 16  # of metrics; the others are in MLflow


def print_summary(run: Run, settings: Settings, seconds: float) -> None:
    """Print the run's last metrics, its id, and how to browse, reload, search and copy."""
    title = f"{run.experiment}: {run.name}, {format_duration(timedelta(seconds=seconds))}"
    figures = Table(title=title, title_justify="left", show_header=False)
    names = results(run.metrics.latest)
    for name in names[:ROWS]:
        figures.add_row(name, format_metric(run.metrics.latest[name]))
    if len(names) > ROWS:
        figures.add_row(f"and {len(names) - ROWS} more", "")
    figures.add_row("run id", run.id)
    get_console().print(figures)
    print_hints(dict(_next(run, settings)))


def _next(run: Run, settings: Settings) -> Iterator[tuple[str, str]]:
    """The commands that make sense after this run."""
    yield "browse", "bash scripts/mlflow_ui.sh"
    kept = [name for name in ("best", "last") if (run.checkpoints / f"{name}.ckpt").is_file()]
    if kept:
        yield "reload", reload_command(run.id[:8], kept[0])
    yield "search", f"{run_command(run.experiment)} -m '{_search(settings)}'"
    yield "copy", copy_command(run.experiment)


def _search(settings: Settings) -> str:
    """Half to double the learning rate, or the first number that allows it; else some seeds."""
    own = {name: getattr(settings, name) for name in _own(settings)}
    names = sorted(own, key=lambda name: name != "learning_rate")
    for name in names:
        ends = (own[name] / 2, own[name] * 2) if _is_number(own[name]) else ()
        if ends and all(_allows(settings, name, end) for end in ends):
            return f"{name}=interval({ends[0]:g},{ends[1]:g})"
    return "seed=0,1,2"


def _own(settings: Settings) -> list[str]:
    """The settings that only this experiment has."""
    return [
        name for name in type(settings).model_fields if name not in TrainingSettings.model_fields
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, float) and value > 0


def _allows(settings: Settings, name: str, value: float) -> bool:
    try:
        type(settings).model_validate(settings.model_dump() | {name: value})
    except ValidationError:
        return False
    return True
