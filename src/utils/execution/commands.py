"""The commands that a person may want to type next, as they are typed here."""

import shutil

from src.utils.layout import Experiment

from rich import get_console
from rich.markup import escape


def python() -> str:
    """How the environment's Python is called here."""
    return "poetry run python" if shutil.which("poetry") else ".venv/bin/python"


def lab() -> str:
    """How the lab command is called here."""
    return "poetry run lab" if shutil.which("poetry") else ".venv/bin/lab"


def run(here: Experiment) -> str:
    """Runs an experiment."""
    return f"{python()} src/{here}/{here.program().name}"


def reload(reference: str, checkpoint: str = "best") -> str:
    """Loads the model of a run."""
    which = "" if checkpoint == "best" else f', checkpoint="{checkpoint}"'
    code = f'from src.utils.tracking import load_model; print(load_model("{reference}"{which}))'
    return f"{python()} -c '{code}'"


def copy(here: Experiment) -> str:
    """Starts the next experiment."""
    new = here.next()
    return " && ".join(f"cp -r {top}/{here} {top}/{new}" for top in ("src", "config"))


def say(commands: dict[str, str]) -> None:
    """Print them, each with what it is for."""
    width = max(map(len, commands))
    for what, command in commands.items():
        line = f"[bold]{what:{width}}[/]  {escape(command)}"
        get_console().print(line, highlight=False, soft_wrap=True)
