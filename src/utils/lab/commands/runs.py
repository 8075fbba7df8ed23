"""Commands of `lab` on runs that are there: list, compare, repeat, resume, export."""

from pathlib import Path
from typing import Annotated

from src.utils.lab.commands.completion import complete_experiment
from src.utils.lab.commands.declaration import Commands, Reference, Result, TrustSource

import typer

commands = Commands("Runs")


@commands.command()
def runs(
    experiment: Annotated[
        str | None,
        typer.Option(
            "--experiment",
            "-e",
            help="model01, or a stage: feature.",
            autocompletion=complete_experiment,
        ),
    ] = None,
    sort: Annotated[
        str | None, typer.Option(help="Metric or param, best first; -NAME reverses the order.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            "-w",
            help="Filter: 'learning_rate>0.001', status=failed, note~text, a tag. May be repeated.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Number of runs; 0 lists all.")] = 20,
    members: Annotated[
        bool, typer.Option("--members", help="List the members of groups, too.")
    ] = False,
) -> Result:
    """List runs, newest or best first, with the settings in which they differ."""
    from src.utils.lab.runs import Query, as_dicts, print_runs, select_runs
    from src.utils.store.reader import open_reader

    query, reader = Query(experiment, where or (), sort, limit, members), open_reader()
    selection = select_runs(reader, query)
    return Result(lambda: print_runs(selection, query), lambda: as_dicts(reader, selection.records))


@commands.command()
def show(run: Reference) -> Result:
    """Show everything about one run, including the runs that made its data."""
    from src.utils.lab.show import as_dict, print_run
    from src.utils.store.reader import open_reader
    from src.utils.store.reference import find_record

    reader = open_reader()
    record = find_record(run, reader=reader)
    return Result(lambda: print_run(reader, record), lambda: as_dict(reader, record))


@commands.command()
def best(
    where: Annotated[
        str,
        typer.Argument(metavar="STUDY|GROUP|EXPERIMENT", help="A name or id, or model01."),
    ],
) -> Result:
    """Show the best run of a study, a group or an experiment."""
    return show(f"{where}/best")


@commands.command()
def diff(
    run: Reference,
    other: Reference,
    full: Annotated[bool, typer.Option("--full", help="Print any source diff whole.")] = False,
) -> None:
    """Compare two runs: settings, data, code, packages, machine, metrics; of two groups, which is better."""
    from src.utils.lab.diff import print_diff
    from src.utils.store.reader import open_reader
    from src.utils.store.reference import find_record

    reader = open_reader()
    print_diff(reader, find_record(run, reader=reader), find_record(other, reader=reader), full)


@commands.command()
def rerun(
    run: Reference,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings to change: learning_rate=0.002.")
    ] = None,
    tolerance: Annotated[float, typer.Option(help="Of each metric, relative.")] = 0.01,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the worktree.")] = False,
    other_data: Annotated[
        bool, typer.Option("--other-data", help="Run even if the data have changed since.")
    ] = False,
) -> None:
    """Repeat a run from its code, settings and data, and compare the results.

    The verdict is identical (bit-identical), within tolerance, or different.
    """
    from src.utils.lab.rerun import print_result
    from src.utils.lab.rerun import rerun as repeat_run

    result = repeat_run(run, overrides or (), tolerance, keep, other_data)
    print_result(result)
    if result.verdict == "different" and not overrides:
        raise typer.Exit(1)


@commands.command()
def resume(run: Reference) -> None:
    """Resume a training that was stopped, in the same run."""
    from src.utils.lab.resume import resume as resume_run

    raise typer.Exit(resume_run(run))


@commands.command()
def export(
    run: Reference,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    checkpoint: Annotated[str, typer.Option(help="best or last.")] = "best",
    onnx: Annotated[bool, typer.Option("--onnx", help="Write model.onnx, too.")] = False,
    sample: Annotated[
        str,
        typer.Option(
            "--input", help="One sample, as in 28x28:uint8; default: the example_input_array."
        ),
    ] = "",
    trust_source: TrustSource = False,
) -> None:
    """Write the model of a run to a folder that needs only torch to load."""
    from src.utils.store.reference import find_result

    record = find_result(run)
    from src.utils.lab.export import export_run  # late: it imports torch

    export_run(record, folder, checkpoint, sample, onnx, trust_source)
    source = f"{record.experiment} {record.short} ({record.name})"
    print(f"{folder}: {source}; {folder}/README.md says how to load it")
