"""Commands of `lab` for other machines: what runs where, and runs that are brought there and back."""

from typing import Annotated

from src.utils.lab.commands.completion import complete_run
from src.utils.lab.commands.declaration import Commands, Experiment, Result

import typer

commands = Commands("Between machines")
Where = Annotated[
    str,
    typer.Argument(
        metavar="WHERE",
        help="A folder (USB stick, shared disk), another clone, http://SERVER, USER@HOST:PATH.",
    ),
]
Runs = Annotated[
    list[str] | None,
    typer.Argument(metavar="RUN", help="These alone.", autocompletion=complete_run),
]
RunsThere = Annotated[list[str] | None, typer.Argument(metavar="RUN", help="These alone.")]
Conditions = Annotated[
    list[str] | None,
    typer.Option("--where", "-w", help="As in lab runs: 'val_acc>0.98'. May be repeated."),
]
Since = Annotated[
    str | None, typer.Option(help="Runs that were active since: 2026-11-01, 7d, 12h.")
]
Data = Annotated[bool, typer.Option("--data", help="With the versions of their data.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be written.")]


@commands.command()
def studies(
    study: Annotated[
        str | None,
        typer.Argument(
            metavar="STUDY",
            help="One study: its name, or latest.",
            autocompletion=complete_run,
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Show its live table until it is done, or Ctrl-C.")
    ] = False,
    limit: Annotated[int, typer.Option(min=0, help="Number of studies; 0 lists all.")] = 20,
) -> Result:
    """List studies: how far each is, what of it runs where; of one, its workers and trials."""
    from src.utils.lab import studies as listed

    if study or follow:
        state = listed.read_study(study or "latest")
        show = listed.follow if follow else listed.print_study
        return Result(lambda: show(state), lambda: listed.as_dict(state))
    states, total = listed.read_studies(limit)
    return Result(
        lambda: listed.print_studies(states, total), lambda: [listed.as_dict(one) for one in states]
    )


@commands.command()
def stop(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="STUDY|RUN",
            help="A study, a run, or the name of a job.",
            autocompletion=complete_run,
        ),
    ],
) -> Result:
    """End the workers of a study or run on other machines; they save what they are running."""
    from src.utils.lab.stop import as_dict, print_stopped
    from src.utils.lab.stop import stop as stop_workers

    workers = stop_workers(reference)
    return Result(lambda: print_stopped(reference, workers), lambda: as_dict(reference, workers))


@commands.command()
def push(
    where: Where,
    runs: Runs = None,
    experiment: Experiment = None,
    conditions: Conditions = None,
    since: Since = None,
    data: Data = False,
    dry_run: DryRun = False,
) -> Result:
    """Bring runs of this project to another place; what is there already is left out."""
    from src.utils.lab.push import push as push_runs
    from src.utils.lab.transfer import Choice, print_moved

    choice = Choice(runs or (), experiment, conditions or (), since)
    done = push_runs(where, choice, data, dry_run)
    return Result(lambda: print_moved(done), done.as_dict)


@commands.command()
def pull(
    where: Where,
    runs: RunsThere = None,
    experiment: Experiment = None,
    conditions: Conditions = None,
    since: Since = None,
    data: Data = False,
    dry_run: DryRun = False,
) -> Result:
    """Bring runs of another place to this project; what is here already is left out."""
    from src.utils.lab.pull import pull as pull_runs
    from src.utils.lab.transfer import Choice, print_moved

    choice = Choice(runs or (), experiment, conditions or (), since)
    done = pull_runs(where, choice, data, dry_run)
    return Result(lambda: print_moved(done), done.as_dict)
