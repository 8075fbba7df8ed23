"""The summary that is printed after a run: its last metrics, and the commands to type next."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from src.utils.paths import SAVED, Experiment, remote_run_folder
from src.utils.run import Run
from src.utils.runs.member import members_of
from src.utils.runs.source_code import defines
from src.utils.settings import ModelSettings, Settings, TrainingSettings
from src.utils.store.objective import SPREAD, result_metrics
from src.utils.store.record import RunRecord
from src.utils.terminal import (
    copy_command,
    format_duration,
    format_metric,
    format_spread,
    lab_command,
    print_hints,
    reload_command,
    run_command,
)

from pydantic import ValidationError
from rich import get_console
from rich.table import Table

MAX_METRICS = 16  # rows; the other metrics are in MLflow


@dataclass(frozen=True)
class Result:
    """What the summary tells of a run."""

    experiment: Experiment
    title: str
    run_id: str
    metrics: Mapping[str, float]
    folder: Path  # of its artifacts, where they are on this machine


def print_summary(run: Run, settings: Settings, seconds: float) -> None:
    """Print the last metrics of a run, its id, and commands to browse, reload, search and copy it."""
    title = f"{run.experiment}: {run.name}, {format_duration(timedelta(seconds=seconds))}"
    _print(Result(run.experiment, title, run.id, run.metrics.latest, run.folder), settings)


def print_earlier(run: RunRecord, settings: Settings) -> None:
    """Print the same of a run that is finished already."""
    path = run.artifact_uri.removeprefix("file://")
    folder = Path(path) if path.startswith("/") else remote_run_folder(run.id)
    title = f"{run.experiment}: {run.name}"
    _print(Result(Experiment.named(run.experiment), title, run.id, run.metrics, folder), settings)


def _print(result: Result, settings: Settings) -> None:
    table = Table(title=result.title, title_justify="left", show_header=False)
    names = result_metrics(result.metrics)
    for name in names[:MAX_METRICS]:
        table.add_row(name, _format(result.metrics, name, settings))
    if len(names) > MAX_METRICS:
        table.add_row(f"and {len(names) - MAX_METRICS} more", "")
    table.add_row("run id", result.run_id)
    get_console().print(table)
    print_hints(dict(_next_commands(result, settings)))


def _format(metrics: Mapping[str, float], name: str, settings: Settings) -> str:
    """A metric; of a group with the standard deviation and the number of members."""
    spread = metrics.get(f"{name}{SPREAD}")
    if spread is None or not isinstance(settings, ModelSettings):
        return format_metric(metrics[name])
    return format_spread(metrics[name], spread, len(members_of(settings)))


def _next_commands(result: Result, settings: Settings) -> Iterator[tuple[str, str]]:
    yield "browse", "bash scripts/mlflow_ui.sh"
    checkpoint = _first_checkpoint(result.folder / "checkpoints")
    short = result.run_id[:8]
    if checkpoint:
        yield "reload", reload_command(short, checkpoint)
    elif (result.folder / SAVED).is_dir() and defines(result.experiment.program(), "load"):
        yield "reload", reload_command(short)
    elif isinstance(settings, ModelSettings) and settings.is_group:
        yield "members", f"{lab_command()} show {short}"
    command = run_command(result.experiment)
    sweep = _example_sweep(settings)
    yield ("search", f"{command} -m '{sweep}'") if sweep else ("repeat", f"{command} seeds=3")
    yield "copy", copy_command(result.experiment)


def _first_checkpoint(folder: Path) -> str:
    """`best` before `last`, and the run's own before those of its parts, such as `fold0/best`."""
    names = [str(file.relative_to(folder).with_suffix("")) for file in folder.rglob("*.ckpt")]
    return min(names, key=lambda name: (name.count("/"), name), default="")


def _example_sweep(settings: Settings) -> str:
    """Half to double the learning rate, or the first float that allows it; empty if none does."""
    values = {name: getattr(settings, name) for name in _own_settings(settings)}
    for name in sorted(values, key=lambda name: name != "learning_rate"):
        ends = (values[name] / 2, values[name] * 2) if _is_positive_float(values[name]) else ()
        if ends and all(_allows(settings, name, end) for end in ends):
            return f"{name}=interval({ends[0]:g},{ends[1]:g})"
    return ""


def _own_settings(settings: Settings) -> list[str]:
    """The settings that only this experiment has."""
    return [
        name for name in type(settings).model_fields if name not in TrainingSettings.model_fields
    ]


def _is_positive_float(value: Any) -> bool:
    return isinstance(value, float) and value > 0


def _allows(settings: Settings, name: str, value: float) -> bool:
    try:
        type(settings).model_validate(settings.model_dump() | {name: value})
    except ValidationError:
        return False
    return True
