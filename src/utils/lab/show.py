"""`lab show` and `lab best`: everything about one run.

Its note, related runs, metrics, settings, data, code, machine and files, and the commands to type next.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from src.utils.lab.runs import as_dicts, data_metadata, format_result, varying_params
from src.utils.paths import PREDICTIONS, SAVED, VERSIONS, Experiment, display_path
from src.utils.runs.provenance import read_metadata
from src.utils.store.objective import Objective, result_metrics
from src.utils.store.reader import RunReader, find_artifact, trace_lineage
from src.utils.store.record import EARLIER_TRIALS, GROUP, SIGNATURE, DatasetUse, RunRecord
from src.utils.store.reference import list_members, list_trials
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

# Artifact folders whose files are listed one by one; pictures: as stored by earlier versions.
LISTED_FOLDERS = ("checkpoints", SAVED, PREDICTIONS, "figures", "pictures", "plots")
MAIN_PACKAGES = ("torch", "pytorch_lightning", "mlflow", "optuna")
MOST_TRIALS, MOST_EQUAL = 20, 5
EXCEPTION_MODULE = re.compile(r"^(\w+\.)+(?=\w+(:|$))")  # before the name of an exception
RELATIONS = {  # tags that hold the id of another run
    "warm_start_from": "warm start from",
    "forked_from": "warm start from",  # as stored by earlier versions
    "continued_from": "resumed from",
    "rerun_of": "rerun of",
    "reused_from": "results of",
}


def print_run(reader: RunReader, record: RunRecord) -> None:
    """Print what is known about a run, section by section, and commands to type next."""
    console = get_console()
    parts = [f"[bold]{escape(record.name)}[/]", record.id, record.experiment, record.state]
    console.print("  ".join(parts), highlight=False)
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for title, lines in _sections(reader, record):
        if any(lines):
            grid.add_row(title, escape("\n".join(lines)))
    console.print(grid, highlight=False)
    print_hints(_next_commands(record))


def _sections(reader: RunReader, record: RunRecord) -> Iterator[tuple[str, list[str]]]:
    tags = record.tags
    metrics = {name: format_result(record, name) for name in result_metrics(record.metrics)}
    settings = {k: v for k, v in record.params.items() if k not in ("note", "tags")}
    yield "note", [" ".join([record.note, *(f"#{label}" for label in record.labels)]).strip()]
    yield "started", [_time(record)]
    yield "failure", [failure_reason(record)]
    yield "related", list(_related(reader, record))
    yield "metrics", _columns(metrics)
    yield "settings", _columns(settings)
    yield "trials", list(_trials(reader, record)) if record.is_study else []
    yield "members", list(_members(reader, record)) if record.is_group else []
    yield "data", list(_data(reader, record))
    yield "code", list(_code(record))
    yield "signature", list(_signature(reader, record))
    yield "machine", list(machine_lines(record))
    yield "command", [tags["command"]] if "command" in tags else []
    yield "files", list(_files(record))


def failure_reason(record: RunRecord) -> str:
    """Why a run was stopped, or the last line of its traceback; empty where it has neither."""
    if record.reason or record.state != "failed":
        return record.reason
    traceback = find_artifact(record, "logs/traceback.txt")
    line = traceback.read_text().strip().splitlines()[-1] if traceback else ""
    return EXCEPTION_MODULE.sub("", line)


def _time(record: RunRecord) -> str:
    started = f"{record.started:%Y-%m-%d %H:%M:%S}" if record.started else "never"
    return f"{started}, {'not ended' if record.seconds is None else f'{record.seconds:.1f} s'}"


def _related(reader: RunReader, record: RunRecord) -> Iterator[str]:
    tags = record.tags
    if record.is_member:
        names = {run.id: run.name for run in reader.runs()}
        group = tags[GROUP]
        yield f"{record.place} of the group {names.get(group, '(deleted)')} {group[:8]}"
    if "optuna.trial" in tags:
        before = tags.get(EARLIER_TRIALS, "").replace(" ", ", ")
        interrupted = f", before it was interrupted trial {before}" if before else ""
        yield f"trial {tags['optuna.trial']} of {tags.get('optuna.study')}{interrupted}"
    for tag, relation in RELATIONS.items():
        if tag in tags:
            yield f"{relation} {tags[tag][:8]}"
    if record.blended:
        weights = zip(record.blended, tags["blend.weights"].split(), strict=True)
        runs = ", ".join(f"{run_id[:8]} (weight {weight})" for run_id, weight in weights)
        yield f"{tags['blend.method']} blend of {runs}"
    if "best.run_id" in tags:
        params = record.best
        run_id, value = params.pop("run_id"), params.pop("value", "?")
        yield f"best trial {run_id[:8]}: {value.strip('[]')} with {format_settings(params)}"


def _columns(values: Mapping[str, str]) -> list[str]:
    """`name value`, as many to a line as there is room for."""
    cells = [f"{name} {value or repr(value)}" for name, value in values.items()]
    lines = [""]
    for cell in cells:
        if lines[-1] and len(lines[-1]) + len(cell) + 3 > get_console().width - 12:
            lines.append("")
        lines[-1] += ("   " if lines[-1] else "") + cell
    return lines if cells else []


def _trials(reader: RunReader, study: RunRecord) -> Iterator[str]:
    trials = list_trials(reader, study)
    params = varying_params(trials)
    for run in trials[:MOST_TRIALS]:
        known = result_metrics(run.metrics)
        names = [name for name in known if name.startswith("val")][:1] or known[:1]
        value = "".join(f"{name} {format_result(run, name)}" for name in names)
        trial = f"trial {run.tags.get('optuna.trial', '?')}"
        yield f"{run.short}  {trial:9} {run.state:9} {value:16} {format_settings(params[run.id])}"
    if len(trials) > MOST_TRIALS:
        yield f"… and {len(trials) - MOST_TRIALS} more: lab runs --where study={study.name} --limit 0"


def _members(reader: RunReader, group: RunRecord) -> Iterator[str]:
    """The members with their objective or the reason of a failure, and how many are missing."""
    members, objective = list_members(reader, group), Objective.of(group)
    for run in members:
        metric = objective.metric if objective else ""
        value = f"{metric} {format_metric(run.metrics[metric])}" if metric in run.metrics else ""
        name = f"{run.name:{len(members[-1].name)}}"
        yield f"{run.short}  {name}  {run.state:8}  {value}  {run.reason}".rstrip()
    if len(members) < group.size:
        yield f"{len(members)} of {group.size} have begun"


def _data(reader: RunReader, record: RunRecord) -> Iterator[str]:
    """The inputs with the runs that made them, back to the first, and the outputs."""
    for ancestor in trace_lineage(reader, record.id):
        used, deleted = ancestor.dataset, "" if ancestor.run_exists else " (deleted)"
        origin = f"made by run {used.run_id[:8]}{deleted}" if used.run_id else "of unknown origin"
        yield f"{'  ' * ancestor.depth}read {used.name}  {used.digest[:12]}, {origin}, {_presence(used)}"
    for used in reader.datasets(record.id):
        if used.context == "output":
            yield f"wrote {used.name}  {used.digest[:12]}, {_presence(used)}"
    metadata = data_metadata(record)
    if metadata:
        yield format_settings(metadata)


def _presence(used: DatasetUse) -> str:
    return "present" if _is_present(used) else "gone: lab rerun rebuilds it"


def _is_present(used: DatasetUse) -> bool:
    """Whether a version is there, or a plain folder by earlier code; the pipeline would import Hydra."""
    if (VERSIONS / used.name / used.digest).is_dir():
        return True
    manifest = Experiment.named(used.name).data / "manifest.json"
    return manifest.exists() and str(json.loads(manifest.read_text())["digest"]).startswith(
        used.digest
    )


def _code(record: RunRecord) -> Iterator[str]:
    commit = record.tags.get("mlflow.source.git.commit", "")
    branch = record.tags.get("mlflow.source.git.branch", "")
    if commit:
        yield f"commit {commit[:12]} on {branch}{', with uncommitted changes' * record.is_dirty}"
    patch = find_artifact(record, "provenance/changes.patch")
    if record.is_dirty and patch:
        yield f"changes in provenance/changes.patch, {format_size(patch.stat().st_size)}"


def _signature(reader: RunReader, record: RunRecord) -> Iterator[str]:
    """The start of it, and the other runs that have the same one: equal code, settings and data."""
    equal = equal_runs(reader, record)
    yield record.tags.get(SIGNATURE, "")[:12] + (", as" if equal else "")
    for run in equal[:MOST_EQUAL]:
        yield f"{run.short}  {run.name}  {run.state}"
    if len(equal) > MOST_EQUAL:
        yield f"and {len(equal) - MOST_EQUAL} more"


def equal_runs(reader: RunReader, record: RunRecord) -> list[RunRecord]:
    """The other runs with the same signature, the newest first."""
    signature = record.tags.get(SIGNATURE)
    found = reader.tagged(SIGNATURE, signature) if signature else []
    return [run for run in found if run.id != record.id]


def machine_lines(record: RunRecord) -> Iterator[str]:
    """The hardware of a run, and the versions of the main packages."""
    metadata, packages = read_metadata(find_artifact(record, "provenance")), read_packages(record)
    hardware: dict[str, Any] = metadata.get("hardware", {})
    if hardware:
        gpus = ", ".join(hardware.get("gpus", [])) or "no GPU"
        processor = f"{hardware.get('cores')} cores of {hardware.get('processor')}"
        yield f"{hardware.get('machine')}: {processor}, {hardware.get('memory')}, {gpus}"
        main = ", ".join(f"{name} {packages[name]}" for name in MAIN_PACKAGES if name in packages)
        yield f"Python {hardware.get('python')}, {main} and {len(packages)} packages in all"


def read_packages(record: RunRecord) -> dict[str, str]:
    """The versions of the packages that were installed, by name."""
    file = find_artifact(record, "provenance/packages.txt")
    lines = file.read_text().split() if file else []
    return {name: version for name, _, version in (line.partition("==") for line in lines)}


def _files(record: RunRecord) -> Iterator[str]:
    folder = find_artifact(record, "")
    if folder is None:
        return
    yield str(display_path(folder))
    for path in sorted(folder.iterdir()):
        inside = sorted(file for file in path.rglob("*") if file.is_file())
        if path.name in LISTED_FOLDERS:
            for file in inside:
                yield f"  {file.relative_to(folder)}  {format_size(file.stat().st_size)}"
        elif path.is_dir():
            total = format_size(sum(file.stat().st_size for file in inside))
            yield f"  {path.name}/  {len(inside)} files, {total}"
        else:
            yield f"  {path.name}  {format_size(path.stat().st_size)}"


def _next_commands(record: RunRecord) -> dict[str, str]:
    lab = lab_command()
    if record.is_study:
        program = f"{python_command()} {record.tags.get('mlflow.source.name')}"
        return {
            "reload": reload_command(record.name),
            "resume": f"{program} -m resume_study={record.name} hydra.sweeper.n_trials=…",
            "best": f"{lab} show {record.name}/best",
        }
    has_test = find_artifact(record, f"{PREDICTIONS}/test.parquet") is not None
    submit = {"submit": f"{lab} submit {record.short}"} if has_test else {}
    if record.blended:
        return {"repeat": repeat_command(record), **submit}
    rerun = {"rerun": repeat_command(record), **submit}
    if not record.is_model:
        return rerun
    if record.state in ("killed", "failed", "running"):
        return rerun | {"resume": f"{lab} resume {record.short}"}
    if record.is_group:
        rerun |= {
            "best": f"{lab} show {record.name}/best",
            "compare": f"{lab} diff {record.name} …",
        }
    commands = {
        "reload": reload_command(record.short),
        "export": f"{lab} export {record.short} DIR",
    }
    if find_artifact(record, SAVED) and not find_artifact(record, "checkpoints"):
        del commands["export"]  # which writes models of Lightning
    return rerun | commands


def repeat_command(record: RunRecord) -> str:
    """The command that repeats a run."""
    if record.blended:
        return record.tags["command"].replace("lab", lab_command(), 1)
    return f"{lab_command()} rerun {record.short}"


def as_dict(reader: RunReader, record: RunRecord) -> dict[str, Any]:
    """A run as `lab show --json` prints it."""
    data = [
        {
            "name": used.name,
            "digest": used.digest,
            "context": used.context,
            "run": used.run_id,
            "present": _is_present(used),
        }
        for used in reader.datasets(record.id)
    ]
    folder = find_artifact(record, "")
    paths = folder.rglob("*") if folder else ()
    files = sorted(str(path.relative_to(folder)) for path in paths if folder and path.is_file())
    (values,) = as_dicts(reader, [record])
    equal = [run.id for run in equal_runs(reader, record)]
    signature = record.tags.get(SIGNATURE)
    return values | {"data": data, "files": files, "signature": signature, "equal": equal}
