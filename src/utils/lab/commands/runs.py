"""Commands of `lab` on runs that are there: list, compare, repeat, resume, export, report."""

from pathlib import Path
from typing import Annotated

from src.utils.lab.commands.completion import complete_run
from src.utils.lab.commands.declaration import (
    Commands,
    Experiment,
    Reference,
    Result,
    TrustSource,
)

import typer

commands = Commands("Runs")
Limit = Annotated[int, typer.Option(min=0, help="Number of runs; 0 lists all.")]


@commands.command()
def runs(
    experiment: Experiment = None,
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
    limit: Limit = 20,
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
) -> Result:
    """Compare two runs: settings, data, code, packages, machine, metrics; of two groups, which is better."""
    from src.utils.lab.diff import as_dict, print_diff
    from src.utils.store.reader import open_reader
    from src.utils.store.reference import find_record

    reader = open_reader()
    left, right = find_record(run, reader=reader), find_record(other, reader=reader)
    return Result(
        lambda: print_diff(reader, left, right, full), lambda: as_dict(reader, left, right, full)
    )


@commands.command()
def tried(
    conditions: Annotated[
        list[str],
        typer.Argument(
            metavar="SETTING=VALUE…", help="hidden=64, or in quotes a range: 'learning_rate>0.01'."
        ),
    ],
    experiment: Experiment = None,
    limit: Limit = 20,
) -> Result:
    """Say whether settings have been tried and how it went; if not, which are the nearest."""
    from src.utils.lab.tried import as_dict, find_tries, print_answer
    from src.utils.store.reader import open_reader

    reader = open_reader()
    answer = find_tries(reader, conditions, experiment)
    return Result(
        lambda: print_answer(answer, conditions, limit),
        lambda: as_dict(reader, answer, limit),
        status=0 if answer.tried else 1,
    )


@commands.command()
def rerun(
    run: Reference,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings to change: learning_rate=0.002.")
    ] = None,
    tolerance: Annotated[float, typer.Option(help="Of each metric, relative.")] = 0.01,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the folder of its code.")] = False,
    other_data: Annotated[
        bool, typer.Option("--other-data", help="Read the data of today, not those of the run.")
    ] = False,
    packages: Annotated[
        bool, typer.Option("--packages", help="Use the versions of packages that the run had.")
    ] = False,
) -> Result:
    """Repeat a run from its code, settings and data, and compare the results.

    The verdict is identical (bit-identical), within tolerance, or different.
    """
    from src.utils.lab.rerun import rerun as repeat_run
    from src.utils.lab.rerun_result import print_result

    result = repeat_run(run, overrides or (), tolerance, keep, other_data, packages)
    is_bad = result.verdict == "different" and not overrides
    return Result(lambda: print_result(result), result.as_dict, status=int(is_bad))


@commands.command()
def resume(run: Reference) -> Result:
    """Resume a training that was stopped, in the same run."""
    from src.utils.lab.resume import resume as resume_run

    run_id, status = resume_run(run)
    if status == 2:
        raise typer.Exit(status)  # the program has refused, and said why
    return Result(lambda: None, lambda: show(run_id).data(), status)


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
) -> Result:
    """Write the model of a run to a folder that needs only torch to load."""
    from src.utils.store.reference import find_result

    record = find_result(run)
    from src.utils.lab.export import as_dict, export_run, print_export  # late: it imports torch

    export_run(record, folder, checkpoint, sample, onnx, trust_source)
    return Result(lambda: print_export(record, folder), lambda: as_dict(record, folder))


@commands.command()
def report(
    references: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN|STUDY|GROUP|EXPERIMENT",
            help="What it is about; default: the newest model.",
            autocompletion=complete_run,
        ),
    ] = None,
    *,
    out: Annotated[Path, typer.Option(metavar="FILE.html", help="A page of its own.")],
    limit: Annotated[int, typer.Option(min=0, help="Newest runs of an experiment; 0: all.")] = 20,
) -> Result:
    """Write one HTML file about some runs, to mail or print: table, curves, pictures, verdict, data, code."""
    from src.utils.lab.report import as_dict, print_report, write_report
    from src.utils.store.reader import open_reader

    written = write_report(open_reader(), references or (), out, limit)
    return Result(lambda: print_report(written), lambda: as_dict(written))
