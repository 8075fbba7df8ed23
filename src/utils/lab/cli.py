"""The `lab` command: its subcommands, their arguments and their help.

    poetry run lab --help
    poetry run python -m src.utils.lab.cli --help

Each subcommand is a file of this folder with the same name, imported late: `lab --help` needs no torch.
"""

from pathlib import Path
from typing import Annotated

from src.utils.errors import UserError, exit_on_user_error

import typer

commands = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # typer has no public name for it
Reference = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="A run's id or its start, a run's or study's name, latest, best."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

TrustSource = Annotated[
    bool, typer.Option("--trust-source", help="Run source code saved in a store elsewhere.")
]


@commands.callback()
def lab(context: typer.Context) -> None:
    """List, compare, repeat, resume, export and clean up the runs of this project.

    RUN is an id or its start, a name of a run or study, latest or best; also model01/best, STUDY/7, GROUP/2.
    """
    from src.utils.lab.installation import venv_of_copy
    from src.utils.paths import ROOT

    venv = venv_of_copy()
    if venv and context.invoked_subcommand != "doctor":
        raise UserError(
            f"{venv} runs the code of {ROOT}, with its runs: "
            f"bash {venv.parent}/scripts/setup.sh makes it that folder's own"
        )


@commands.command()
def runs(
    experiment: Annotated[
        str | None, typer.Option("--experiment", "-e", help="model01, or a stage: feature.")
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
    json: Json = False,
) -> None:
    """List runs, newest or best first, with the settings in which they differ."""
    from src.utils.lab.runs import Query, as_json, print_runs, select_runs
    from src.utils.store.reader import open_reader

    query, reader = Query(experiment, where or (), sort, limit, members), open_reader()
    selection = select_runs(reader, query)
    if json:
        print(as_json(reader, selection.records))
    elif selection.records:
        print_runs(selection, query)
    else:
        raise UserError("no run matches: leave out a --where")


@commands.command()
def show(run: Reference, json: Json = False) -> None:
    """Show everything about one run, including the runs that made its data."""
    from src.utils.lab.show import as_json, print_run
    from src.utils.store.reader import open_reader
    from src.utils.store.reference import find_record

    reader = open_reader()
    record = find_record(run, reader=reader)
    print(as_json(reader, record)) if json else print_run(reader, record)


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
def best(
    where: Annotated[
        str,
        typer.Argument(metavar="STUDY|GROUP|EXPERIMENT", help="A name or id, or model01."),
    ],
    json: Json = False,
) -> None:
    """Show the best run of a study, a group or an experiment."""
    show(f"{where}/best", json)


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
def new(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="model02")] = None,
    source: Annotated[
        str | None,
        typer.Option("--from", help="Experiment to copy; default: the last with a similar name."),
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="Its stage, such as feature, if a name is in several.")
    ] = None,
    note: Annotated[str, typer.Option(help="Note for the diary.")] = "",
    idea: Annotated[str, typer.Option(hidden=True)] = "",  # --note of earlier versions
) -> None:
    """Copy an experiment to a new one and add it to the diary; asks for what is missing."""
    from src.utils.lab.new import find_experiment, list_experiments, new_experiment

    note = note or idea
    if name is None:
        source = source or typer.prompt("Experiment to copy", str(list_experiments()[-1]))
        name = typer.prompt("Name of the new one", find_experiment(str(source), stage).next().name)
        note = note or typer.prompt("Note", "", show_default=False)
    print(new_experiment(str(name), source, stage, note))


@commands.command()
def diary() -> None:
    """Write today's report of runs to the diary; your own text stays."""
    from datetime import datetime

    from src.utils.lab.diary import DiaryPage, previous_end
    from src.utils.lab.diary_report import day_report, runs_since
    from src.utils.store.reader import open_reader

    page, reader, now = DiaryPage.today(), open_reader(), datetime.now().astimezone()
    period = page.period()
    start = period[0] if period else previous_end(page)
    report = day_report(reader, runs_since(reader, start), start)
    page.write_report(report, start, now)
    print(f"{report}\n\ndiary/{page.file.name} is up to date: add your own text below the report")


@commands.command()
def gc(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")] = False,
) -> None:
    """List files that no run uses, and remove them after confirmation."""
    from src.utils.lab.gc import find_unused, print_unused
    from src.utils.store.reader import open_reader

    unused = find_unused(open_reader())
    if not unused:
        print("nothing to remove")
        return
    print_unused(unused)
    if yes or _confirm("Remove all of it?"):
        for file in unused:
            file.remove()
        print("removed")
    else:
        print("nothing was removed; lab gc --yes doesn't ask")


@commands.command()
def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Close runs whose process is gone.")] = False,
) -> None:
    """Check installation, stores, runs and disk, and print how to fix each problem."""
    from src.utils.lab.doctor import check

    bad = 0
    for finding in check(close_dead=fix):
        finding.print()
        bad += finding.level == "bad"
    raise typer.Exit(1 if bad else 0)


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


@commands.command()
def blend(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN", help="Two or more runs, groups or blends.")
    ],
    method: Annotated[str, typer.Option(help="hill-climb, ridge or mean.")] = "hill-climb",
    note: Annotated[str, typer.Option(help="Why it is made.")] = "",
    trust_source: TrustSource = False,
) -> None:
    """Blend the predictions of several runs, with weights found on out-of-fold rows."""
    from src.utils.lab.blend import blend_runs, print_blend, record_blend

    found = blend_runs(runs, method, trust_source)
    print_blend(found, record_blend(found, note))


@commands.command()
def submit(
    run: Reference,
    sample: Annotated[
        Path | None,
        typer.Option("--format", help="A sample whose columns, ids and order are kept."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A new file.")] = None,
    labels: Annotated[
        bool, typer.Option("--labels", help="Write the most probable class of each row.")
    ] = False,
) -> None:
    """Write the test predictions of a run, group or blend as a file for a competition."""
    from src.utils.lab.submit import print_submission, write_submission
    from src.utils.store.reference import find_result

    record = find_result(run)
    print_submission(record, *write_submission(record, sample, out, labels))


@commands.command()
def submitted(
    run: Reference,
    public: Annotated[float | None, typer.Option(help="The public score.")] = None,
    private: Annotated[float | None, typer.Option(help="The private score.")] = None,
) -> None:
    """Store the score that a competition gave: lab runs --sort public_score."""
    from src.utils.lab.submitted import store_scores
    from src.utils.store.reference import find_result

    record = find_result(run)
    stored = store_scores(record, public, private)
    print(f"{record.short} ({record.name}): {', '.join(f'{k} {v:g}' for k, v in stored.items())}")


def app() -> None:
    """Run the command line; an error of the user is printed in one line."""
    with exit_on_user_error():
        try:
            status = commands(prog_name="lab", standalone_mode=False)
        except UsageError as error:
            raise _usage_error(error) from None
        except typer.Abort:
            raise KeyboardInterrupt from None
    raise SystemExit(status)


def _usage_error(error: Exception) -> BaseException:
    """typer's message in one line; without a command, typer has printed the help already."""
    message = getattr(error, "format_message", error.__str__)().rstrip(".")
    if not message:
        return SystemExit(2)
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "lab"
    return UserError(f"{message}{'' if message.endswith('?') else f': see {command} --help'}")


def _confirm(question: str) -> bool:
    try:
        return typer.confirm(question)
    except typer.Abort:  # no terminal to answer from
        print()
        return False


if __name__ == "__main__":
    app()
