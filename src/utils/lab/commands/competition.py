"""Commands of `lab` for competitions: blend, submit, and the score that came back."""

from pathlib import Path
from typing import Annotated

from src.utils.lab.commands.completion import complete_run
from src.utils.lab.commands.declaration import Commands, Reference, Result, TrustSource

import typer

commands = Commands("Competitions")


@commands.command()
def blend(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN",
            help="Two or more runs, groups or blends.",
            autocompletion=complete_run,
        ),
    ],
    method: Annotated[str, typer.Option(help="hill-climb, ridge or mean.")] = "hill-climb",
    note: Annotated[str, typer.Option(help="Why it is made.")] = "",
    trust_source: TrustSource = False,
) -> Result:
    """Blend the predictions of several runs, with weights found on out-of-fold rows."""
    from src.utils.lab.blend import as_dict, blend_runs, print_blend, record_blend

    found = blend_runs(runs, method, trust_source)
    run = record_blend(found, note)
    return Result(lambda: print_blend(found, run), lambda: as_dict(found, run))


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
) -> Result:
    """Write the test predictions of a run, group or blend as a file for a competition."""
    from src.utils.lab.submit import as_dict, print_submission, write_submission
    from src.utils.store.reference import find_result

    record = find_result(run)
    file, table = write_submission(record, sample, out, labels)
    return Result(
        lambda: print_submission(record, file, table), lambda: as_dict(record, file, table)
    )


@commands.command()
def submitted(
    run: Reference,
    public: Annotated[float | None, typer.Option(help="The public score.")] = None,
    private: Annotated[float | None, typer.Option(help="The private score.")] = None,
) -> Result:
    """Store the score that a competition gave: lab runs --sort public_score."""
    from src.utils.lab.submitted import print_scores, store_scores
    from src.utils.store.reference import find_result

    record = find_result(run)
    scores = store_scores(record, public, private)
    return Result(lambda: print_scores(record, scores), lambda: {"run": record.id} | scores)
