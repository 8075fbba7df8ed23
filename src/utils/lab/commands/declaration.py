"""How a command of `lab` is declared, and the arguments that several of them have.

    commands = Commands("Runs")  # a panel of `lab --help`

    @commands.command()
    def show(run: Reference) -> Result:
        '''Show everything about one run.'''  # the help
        record = find_record(run)
        return Result(lambda: print_run(record), lambda: as_dict(record))

A command that returns a `Result` has the option `--json`. With it, stdout has the data as one JSON document
and nothing else: what is printed meanwhile, also by the programs that the command starts, goes to stderr.
"""

import functools
import inspect
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

from src.utils.lab.commands.completion import complete_experiment, complete_run
from src.utils.paths import display_path

import typer

Reference = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run's id or its start, a run's or study's name, latest, best.",
        autocompletion=complete_run,
    ),
]
Experiment = Annotated[
    str | None,
    typer.Option(
        "--experiment",
        "-e",
        help="model01, or a stage: feature.",
        autocompletion=complete_experiment,
    ),
]
TrustSource = Annotated[
    bool, typer.Option("--trust-source", help="Run source code saved in a store elsewhere.")
]
JSON = inspect.Parameter(
    "json",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[bool, typer.Option("--json", help="Print JSON.")],
)
P = ParamSpec("P")
Returned = TypeVar("Returned", bound="Result | None")


@dataclass(frozen=True)
class Result:
    """What a command has found or done; one of the two functions is called."""

    show: Callable[[], object]  # prints it for people
    data: Callable[[], object]  # returns it for programs, as dicts, lists, paths and the like
    status: int = 0  # the exit status


class Commands:
    """The commands of one subject."""

    def __init__(self, panel: str) -> None:
        self.panel = panel
        self.typer = typer.Typer()

    def command(self) -> Callable[[Callable[P, Returned]], Callable[P, Returned]]:
        """A decorator: declares a function as a command of the same name."""

        def declare(function: Callable[P, Returned]) -> Callable[P, Returned]:
            has_json = inspect.signature(function).return_annotation is Result
            self.typer.command(rich_help_panel=self.panel)(
                _with_json(function) if has_json else function
            )
            return function

        return declare


def _with_json(function: Callable[..., Any]) -> Callable[..., None]:
    """The function with the option --json, which shows its result."""

    @functools.wraps(function)
    def command(*, json: bool, **arguments: Any) -> None:
        if json:
            with _stdout_to_stderr():
                result = function(**arguments)
                document = as_json(result.data())
            print(document)
        else:
            result = function(**arguments)
            result.show()
        raise typer.Exit(result.status)

    known = inspect.signature(function)
    command.__signature__ = known.replace(parameters=[*known.parameters.values(), JSON])  # type: ignore[attr-defined]  # a function may have one
    command.__annotations__ = {**function.__annotations__, "json": JSON.annotation}
    return command


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)


def as_json(data: object) -> str:
    """A JSON document, in which NaN and infinity are null, and paths relative to the project's root."""
    return json.dumps(_json_value(data), indent=2, allow_nan=False)


def _json_value(data: object) -> object:
    match data:
        case dict():
            return {str(name): _json_value(value) for name, value in data.items()}
        case list() | tuple():
            return [_json_value(value) for value in data]
        case float():
            return data if math.isfinite(data) else None
        case datetime():
            return data.isoformat()
        case Path():
            return str(display_path(data.absolute()))
        case _:
            return data
