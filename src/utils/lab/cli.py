"""`lab`: what one can do with runs, from their ids alone.

poetry run lab --help
poetry run python -m src.utils.lab.cli --help
"""

from pathlib import Path
from typing import Annotated

from src.utils.errors import UserError, plain_errors

import typer

commands = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # typer has no public name for it
Reference = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="An id, the start of one, a run's or study's name, latest, best."
    ),
]


@commands.callback()
def lab(context: typer.Context) -> None:
    """Find, compare, keep and clear away the runs of this laboratory.

    RUN is an id or its beginning, a name of a run or study, latest or best; also model01/best, STUDY/7.
    """
    from src.utils.lab.installation import environment_of_copy
    from src.utils.paths import ROOT

    copy = environment_of_copy()
    if copy and context.invoked_subcommand != "doctor":
        mend = f"bash {copy.parent}/scripts/setup.sh makes it that folder's own"
        raise UserError(f"{copy} runs the code of {ROOT}, with its runs: {mend}")


@commands.command()
def runs(
    experiment: Annotated[
        str | None, typer.Option("--experiment", "-e", help="model01, or a stage: feature.")
    ] = None,
    sort: Annotated[
        str | None, typer.Option(help="Best first by this metric or param; -NAME: the other way.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where", "-w", help="'learning_rate>0.001', status=failed, note~text, a tag."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="0: all of them.")] = 20,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """List runs, newest or best first, with what makes them differ."""
    from src.utils.lab.runs import Query, as_json, chosen, print_runs
    from src.utils.store.reader import open_reader

    query = Query(experiment, where or (), sort, limit)
    records, total = chosen(open_reader(), query)
    if json:
        print(as_json(records))
    elif records:
        print_runs(records, total, query)
    else:
        raise UserError("no run is like that: leave out a --where")


@commands.command()
def show(
    run: Reference,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Everything about one run, and where its data came from."""
    from src.utils.lab.show import as_json, print_run
    from src.utils.store.reader import open_reader
    from src.utils.store.reference import find_record

    reader = open_reader()
    one = find_record(run, reader=reader)
    print(as_json(reader, one)) if json else print_run(reader, one)


@commands.command()
def diff(
    run: Reference,
    other: Reference,
    full: Annotated[bool, typer.Option("--full", help="All of a long source diff.")] = False,
) -> None:
    """What two runs differ in: settings, data, code, metrics…"""
    from src.utils.lab.diff import print_diff
    from src.utils.store.reader import open_reader
    from src.utils.store.reference import find_record

    reader = open_reader()
    print_diff(reader, find_record(run, reader=reader), find_record(other, reader=reader), full)


@commands.command()
def best(
    where: Annotated[
        str, typer.Argument(metavar="STUDY|EXPERIMENT", help="A study's name or id, or model01.")
    ],
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """The best run of a study or an experiment."""
    show(f"{where}/best", json)


@commands.command()
def rerun(
    run: Reference,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings to change: learning_rate=0.002.")
    ] = None,
    tolerance: Annotated[float, typer.Option(help="Of each metric, relative.")] = 0.01,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the worktree there.")] = False,
    other_data: Annotated[
        bool, typer.Option("--other-data", help="Even if the data are not those it had.")
    ] = False,
) -> None:
    """Run it again from its exact code, settings and data, and compare what comes out."""
    from src.utils.lab.rerun import rerun as run_again
    from src.utils.lab.rerun import say

    outcome = run_again(run, overrides or (), tolerance, keep, other_data)
    say(outcome)
    if outcome.verdict == "different" and not overrides:
        raise typer.Exit(1)


@commands.command()
def resume(run: Reference) -> None:
    """Go on with a training that was stopped, in the same run."""
    from src.utils.lab.rerun import resume as go_on

    raise typer.Exit(go_on(run))


@commands.command()
def new(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="model02")] = None,
    source: Annotated[
        str | None, typer.Option("--from", help="What to copy; else the last one named like it.")
    ] = None,
    stage: Annotated[str | None, typer.Option(help="dataset, feature or model, in doubt.")] = None,
    idea: Annotated[str, typer.Option(help="What it is to try, for the diary.")] = "",
) -> None:
    """Start an experiment from another one; asks what isn't given."""
    from src.utils.lab.diary import begin_entry
    from src.utils.lab.new import experiments, find_experiment, fork, likely_source
    from src.utils.terminal import run_command

    if name is None:
        source = source or typer.prompt("Copy which experiment", str(experiments()[-1]))
        name = typer.prompt("Name of the new one", find_experiment(str(source), stage).next().name)
        idea = idea or typer.prompt("What is to be tried", "", show_default=False)
    old = find_experiment(source, stage) if source else likely_source(str(name), stage)
    made = fork(old, str(name))
    page = begin_entry(made, old, idea)
    print(f"src/{made} and config/{made} are copies of {old}; diary/{page.name} has a place for it")
    print(f"run it: {run_command(made)}")


@commands.command()
def diary() -> None:
    """Write today's facts into the diary; your thoughts stay."""
    from datetime import datetime

    from src.utils.lab.diary import last_entry, today
    from src.utils.lab.diary_report import since, tell
    from src.utils.store.reader import open_reader

    page, reader, now = today(), open_reader(), datetime.now().astimezone()
    span = page.span()
    began = span[0] if span else last_entry(page)
    facts = tell(reader, since(reader, began), began)
    page.put(facts, began, now)
    print(f"{facts}\n\ndiary/{page.file.name} is up to date: the thoughts are yours")


@commands.command()
def gc(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove it without asking.")] = False,
) -> None:
    """Show what nobody needs any more; removes it if told to."""
    from src.utils.lab.gc import collect, print_unused
    from src.utils.store.reader import open_reader

    found = collect(open_reader())
    if not found:
        print("nothing to clear away")
        return
    print_unused(found)
    if yes or _confirmed("Remove all of it?"):
        for one in found:
            one.remove()
        print("removed")
    else:
        print("nothing was removed; lab gc --yes doesn't ask")


@commands.command()
def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Close runs whose process is gone.")] = False,
) -> None:
    """Check everything, and say how to mend what is wrong."""
    from src.utils.lab.doctor import check

    bad = 0
    for finding in check(fix):
        finding.say()
        bad += finding.level == "bad"
    raise typer.Exit(1 if bad else 0)


@commands.command()
def export(
    run: Reference,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that isn't there yet.")],
    checkpoint: Annotated[str, typer.Option(help="best or last.")] = "best",
    onnx: Annotated[bool, typer.Option("--onnx", help="model.onnx too.")] = False,
    sample: Annotated[
        str,
        typer.Option("--input", help="One sample, as in 28x28:uint8, if the model doesn't say."),
    ] = "",
    trust_source: Annotated[
        bool, typer.Option("--trust-source", help="Run the source kept in a store elsewhere.")
    ] = False,
) -> None:
    """A model in a folder of its own, loaded by torch alone."""
    from src.utils.store.reference import find_record

    one = find_record(run)
    one = find_record(f"{one.id}/best") if one.is_study else one
    from src.utils.lab.export import export as write  # late: it imports torch

    write(one, folder, checkpoint, sample, onnx, trust_source)
    print(
        f"{folder}: {one.experiment} {one.short} ({one.name}); {folder}/README.md says how to load it"
    )


def app() -> None:
    """The command line; what a person did wrong is said in one line."""
    with plain_errors():
        try:
            status = commands(prog_name="lab", standalone_mode=False)
        except UsageError as error:
            raise _plain(error) from None
        except typer.Abort:
            raise KeyboardInterrupt from None
    raise SystemExit(status)


def _plain(error: Exception) -> BaseException:
    """typer's complaint in one line; without a command it has shown the help already."""
    message = getattr(error, "format_message", error.__str__)().rstrip(".")
    if not message:
        return SystemExit(2)
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "lab"
    return UserError(f"{message}{'' if message.endswith('?') else f': see {command} --help'}")


def _confirmed(question: str) -> bool:
    try:
        return typer.confirm(question)
    except typer.Abort:  # nobody is there to answer
        print()
        return False


if __name__ == "__main__":
    app()
