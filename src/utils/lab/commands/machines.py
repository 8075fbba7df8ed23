"""Commands of `lab` that bring runs to another machine and back."""

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
