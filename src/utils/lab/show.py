"""Everything about one run, as `lab show` prints it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from src.utils.lab.runs import differences, plain
from src.utils.paths import display_path
from src.utils.runs.provenance import read_metadata
from src.utils.store.objective import result_metrics
from src.utils.store.reader import RunReader, RunRecord, find_artifact, trace_lineage
from src.utils.store.reference import list_trials
from src.utils.terminal import (
    format_metric,
    format_settings,
    format_size,
    lab_command,
    print_hints,
    python_command,
    reload_command,
)

from rich import get_console
from rich.markup import escape
from rich.table import Table

OWN_FOLDERS = (
    "checkpoints",
    "figures",
    "pictures",
    "plots",
)  # listed file by file; others as a whole
MOST_TRIALS = 20


def print_run(reader: RunReader, one: RunRecord) -> None:
    """Print what is known of a run, a line a subject."""
    console = get_console()
    marks = "  ".join([f"[bold]{escape(one.name)}[/]", one.id, one.experiment, one.state])
    console.print(marks, highlight=False)
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for subject, lines in subjects(reader, one):
        if any(lines):
            grid.add_row(subject, escape("\n".join(lines)))
    console.print(grid, highlight=False)
    print_hints(_next(one))


def subjects(reader: RunReader, one: RunRecord) -> Iterator[tuple[str, list[str]]]:
    """What there is to say, by subject."""
    yield "why", [" ".join([one.note, *(f"#{label}" for label in one.labels)]).strip()]
    yield "when", [_when(one)]
    yield "failure", [one.tags["reason"]] if "reason" in one.tags else []
    yield "family", list(_family(reader, one))
    yield (
        "metrics",
        _columns({name: format_metric(one.metrics[name]) for name in result_metrics(one.metrics)}),
    )
    yield "settings", _columns({k: v for k, v in one.params.items() if k not in ("note", "tags")})
    yield "trials", list(_trials(reader, one)) if one.is_study else []
    yield "data", list(_data(reader, one))
    yield "code", list(_code(one))
    yield "machine", list(_machine(one))
    yield "command", [one.tags["command"]] if "command" in one.tags else []
    yield "files", list(_files(one))


def _when(one: RunRecord) -> str:
    began = f"{one.started:%Y-%m-%d %H:%M:%S}" if one.started else "never"
    return f"{began}, {one.seconds:.1f} s" if one.seconds is not None else f"{began}, not ended"


def _family(reader: RunReader, one: RunRecord) -> Iterator[str]:
    tags = one.tags
    if "optuna.trial" in tags:
        yield f"trial {tags['optuna.trial']} of {tags.get('optuna.study')}"
    for tag, said in {
        "warm_start_from": "a warm start from",
        "forked_from": "a warm start from",  # its name in earlier versions
        "continued_from": "continues",
        "rerun_of": "a rerun of",
    }.items():
        if tag in tags:
            yield f"{said} {tags[tag][:8]}"
    if "best.run_id" in tags:
        found = one.best
        best, value = found.pop("run_id"), found.pop("value", "?")
        yield f"its best is {best[:8]}: {value.strip('[]')} with {format_settings(found)}"


def _trials(reader: RunReader, study: RunRecord) -> Iterator[str]:
    trials = list_trials(reader, study)
    changes = differences(trials)
    for one in trials[:MOST_TRIALS]:
        known = result_metrics(one.metrics)
        names = [name for name in known if name.startswith("val")][:1] or known[:1]
        value = "".join(f"{name} {format_metric(one.metrics[name])}" for name in names)
        trial = f"trial {one.tags.get('optuna.trial', '?')}"
        yield f"{one.short}  {trial:9} {one.state:9} {value:16} {format_settings(changes[one.id])}"
    if len(trials) > MOST_TRIALS:
        yield f"… and {len(trials) - MOST_TRIALS} more: lab runs --where study={study.name} --limit 0"


def _data(reader: RunReader, one: RunRecord) -> Iterator[str]:
    for ancestor in trace_lineage(reader, one.id):
        used, gone = ancestor.dataset, "" if ancestor.run_exists else " (deleted)"
        source = f"made by run {used.run_id[:8]}{gone}" if used.run_id else "of unknown origin"
        yield f"{'  ' * ancestor.depth}read {used.name}  {used.digest[:12]}, {source}"
    for used in reader.datasets(one.id):
        if used.context == "output":
            yield f"wrote {used.name}  {used.digest[:12]}"
    metadata = {name[5:]: value for name, value in one.tags.items() if name.startswith("data.")}
    if metadata:
        yield format_settings(metadata)


def _code(one: RunRecord) -> Iterator[str]:
    commit, branch = (
        one.tags.get(f"mlflow.source.git.{what}", "") for what in ("commit", "branch")
    )
    if commit:
        yield f"commit {commit[:12]} on {branch}{', with uncommitted changes' * one.is_dirty}"
    patch = find_artifact(one, "provenance/changes.patch")
    if one.is_dirty and patch:
        yield f"changes in provenance/changes.patch, {format_size(patch.stat().st_size)}"


def _machine(one: RunRecord) -> Iterator[str]:
    metadata, packages = read_metadata(find_artifact(one, "provenance")), read_packages(one)
    hardware: dict[str, Any] = metadata.get("hardware", {})
    if hardware:
        gpus = ", ".join(hardware.get("gpus", [])) or "no GPU"
        processor = f"{hardware.get('cores')} cores of {hardware.get('processor')}"
        yield f"{hardware.get('machine')}: {processor}, {hardware.get('memory')}, {gpus}"
        main = ("torch", "pytorch_lightning", "mlflow", "optuna")
        versions = ", ".join(f"{name} {packages[name]}" for name in main if name in packages)
        yield f"Python {hardware.get('python')}, {versions} and {len(packages)} packages in all"


def _files(one: RunRecord) -> Iterator[str]:
    folder = find_artifact(one, "")
    if folder is None:
        return
    yield str(display_path(folder))
    for path in sorted(folder.iterdir()):
        inside = [file for file in path.rglob("*") if file.is_file()]
        if path.name in OWN_FOLDERS:
            yield from (
                f"  {path.name}/{file.name}  {format_size(file.stat().st_size)}" for file in inside
            )
        elif path.is_dir():
            total = format_size(sum(file.stat().st_size for file in inside))
            yield f"  {path.name}/  {len(inside)} files, {total}"
        else:
            yield f"  {path.name}  {format_size(path.stat().st_size)}"


def read_packages(one: RunRecord) -> dict[str, str]:
    """The versions of what was installed, by name."""
    file = find_artifact(one, "provenance/packages.txt")
    lines = file.read_text().split() if file else []
    return {name: version for name, _, version in (line.partition("==") for line in lines)}


def _next(one: RunRecord) -> dict[str, str]:
    """What one may want to do with a run."""
    lab = lab_command()
    if one.is_study:
        program = f"{python_command()} {one.tags.get('mlflow.source.name')}"
        return {
            "reload": reload_command(one.name),
            "go on": f"{program} -m resume_study={one.name} hydra.sweeper.n_trials=…",
            "best": f"{lab} show {one.name}/best",
        }
    rerun = {"rerun": f"{lab} rerun {one.short}"}
    if not one.experiment.startswith("model/"):
        return rerun
    if one.state in ("killed", "failed", "running"):
        return rerun | {"resume": f"{lab} resume {one.short}"}
    reload, export = reload_command(one.short), f"{lab} export {one.short} DIR"
    return rerun | {"reload": reload, "export": export}


def _columns(values: Mapping[str, str]) -> list[str]:
    """`name value`, as many beside each other as there is room for."""
    cells: Sequence[str] = [f"{name} {value or repr(value)}" for name, value in values.items()]
    lines = [""]
    for cell in cells:
        if lines[-1] and len(lines[-1]) + len(cell) + 3 > get_console().width - 12:
            lines.append("")
        lines[-1] += ("   " if lines[-1] else "") + cell
    return lines if cells else []


def as_json(reader: RunReader, one: RunRecord) -> str:
    """For programs."""
    data = [
        {"name": used.name, "digest": used.digest, "context": used.context, "run": used.run_id}
        for used in reader.datasets(one.id)
    ]
    folder: Path | None = find_artifact(one, "")
    files = (
        [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()]
        if folder
        else []
    )
    return json.dumps(plain(one) | {"data": data, "files": sorted(files)}, indent=2)
