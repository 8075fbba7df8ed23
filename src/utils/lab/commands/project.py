"""Commands of `lab` on the project: new experiments, the diary, what can be removed, what is wrong."""

from typing import Annotated

from src.utils.lab.commands.completion import complete_experiment
from src.utils.lab.commands.declaration import Commands, Result

import typer

commands = Commands("Project")


@commands.command()
def new(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="model02")] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Experiment to copy; default: the last with a similar name.",
            autocompletion=complete_experiment,
        ),
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="Its stage, such as feature, if a name is in several.")
    ] = None,
    note: Annotated[str, typer.Option(help="Note for the diary.")] = "",
    idea: Annotated[str, typer.Option(hidden=True)] = "",  # --note of earlier versions
) -> Result:
    """Copy an experiment to a new one and add it to the diary; asks for what is missing."""
    from src.utils.lab.new import as_dict, find_experiment, list_experiments, new_experiment

    note = note or idea
    if name is None:
        source = source or typer.prompt("Experiment to copy", str(list_experiments()[-1]))
        name = typer.prompt("Name of the new one", find_experiment(str(source), stage).next().name)
        note = note or typer.prompt("Note", "", show_default=False)
    made, text = new_experiment(str(name), source, stage, note)
    return Result(lambda: print(text), lambda: as_dict(made))


@commands.command()
def schema() -> Result:
    """Write the schemas by which editors complete and check each config.yaml."""
    from src.utils.lab.schema import print_schemas, write_schemas

    schemas = write_schemas()
    return Result(
        lambda: print_schemas(schemas),
        lambda: [one.as_dict() for one in schemas],
        status=int(any(one.problem for one in schemas)),
    )


@commands.command()
def diary() -> Result:
    """Write today's report of runs to the diary; your own text stays."""
    from datetime import datetime

    from src.utils.lab.diary import DiaryPage, previous_end
    from src.utils.lab.diary_report import day_report, runs_since
    from src.utils.store.reader import open_reader

    page, reader, now = DiaryPage.today(), open_reader(), datetime.now().astimezone()
    period = page.period()
    start = period[0] if period else previous_end(page)
    records = runs_since(reader, start)
    report = day_report(reader, records, start)
    page.write_report(report, start, now)
    done = f"diary/{page.file.name} is up to date: add your own text below the report"
    return Result(
        lambda: print(f"{report}\n\n{done}"),
        lambda: {
            "page": page.file,
            "since": start,
            "until": now,
            "runs": [run.id for run in records],
            "report": report,
        },
    )


@commands.command()
def gc(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")] = False,
) -> Result:
    """List files that no run uses, and remove them after confirmation."""
    from src.utils.lab.gc import find_unused, offer_removal, remove_or_list
    from src.utils.store.reader import open_reader

    unused = find_unused(open_reader())
    return Result(lambda: offer_removal(unused, yes), lambda: remove_or_list(unused, yes))


@commands.command()
def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Close runs whose process is gone.")] = False,
) -> Result:
    """Check installation, stores, runs and disk, and print how to fix each problem."""
    from src.utils.lab.doctor import check
    from src.utils.lab.finding import print_findings

    findings = list(check(close_dead=fix))
    is_bad = any(finding.level == "bad" for finding in findings)
    return Result(
        lambda: print_findings(findings),
        lambda: [finding.as_dict() for finding in findings],
        status=int(is_bad),
    )
