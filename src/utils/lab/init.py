"""`lab init`: makes a clone of jikken a project of its own.

The files become those that `copier copy` would have made of the same commit, in one commit on top of the
history. Nothing that git does not know is touched: data, runs and the environment stay.
"""

import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.utils.errors import UserError
from src.utils.lab.template import (
    ANSWERS,
    check_clean,
    cloned,
    git,
    has_identity,
    render,
    write_address,
    write_tree,
)
from src.utils.paths import LOGS, ROOT, Experiment
from src.utils.terminal import lab_command, run_command

NO_IDENTITY = (
    "git doesn't know you: git config --global user.name NAME; git config --global user.email ADDRESS; "
    "git commit -m Start"
)
QUESTIONS = ("name", "description", "author", "license", "examples")  # of copier.yml


@dataclass(frozen=True)
class Start:
    """A new project."""

    commit: str | None  # None where git doesn't know the user
    notes: list[str]
    next: list[str]  # the three commands that come next


def init_project(answers: Mapping[str, Any], ask: bool) -> Start:
    """Make this clone a project, and commit it.

    Args:
        answers: to QUESTIONS
        ask: ask for those that are None at the terminal; else their defaults are taken

    Raises:
        UserError: this is a project already, or has changes that are not committed, or an answer is refused.
    """
    if (ROOT / ANSWERS).exists():
        raise UserError(f"this is a project of its own already, says {ANSWERS}: nothing to do")
    missing = [f"--{name}" for name, answer in answers.items() if answer is None]
    if ask and missing and not sys.stdin.isatty():
        raise UserError(
            f"no terminal to ask at: give {', '.join(missing)}, or --yes for the defaults"
        )
    check_clean()
    address = _address()
    before = sorted((ROOT / "src").glob("*/*/*.py"))
    tree = _make_tree(answers, ask, address)
    git("read-tree", "-m", "-u", "HEAD", tree)
    return Start(_commit(), [*_stay(before), *_say_origin(address)], _next_commands())


def _make_tree(answers: Mapping[str, Any], ask: bool, address: str) -> str:
    """What copier makes of the last commit, as a tree of git."""
    defaults = {"name": re.sub("[^a-z0-9]+", "-", ROOT.name.lower()), "author": _author()}
    with cloned(ROOT) as template, tempfile.TemporaryDirectory(prefix="jikken-") as folder:
        project = Path(folder, "project")
        git("init", "--quiet", project)  # what copier makes is then not committed there
        given = {name: answer for name, answer in answers.items() if answer is not None}
        known = {name: default for name, default in defaults.items() if default}
        render(template, "HEAD", project, given, user_defaults=known, defaults=not ask, unsafe=True)
        write_address(project / ANSWERS, address)
        return write_tree(project)


def _author() -> str:
    try:
        return git("config", "user.name")
    except UserError:
        return ""


def _address() -> str:
    """Where jikken is; lab upgrade asks for it where that is not known.

    After GitHub's «Use this template» it is not: there is one commit, and origin is the user's own.
    """
    is_one_commit = git("rev-list", "--count", "HEAD") == "1"
    if is_one_commit and git("rev-parse", "--is-shallow-repository") == "false":
        return ""
    try:
        return git("remote", "get-url", "origin")
    except UserError:
        return ""


def _commit() -> str | None:
    """Commit what was made, if git knows the user; returns the commit."""
    if not has_identity():
        return None
    git("commit", "--quiet", "--no-verify", "--message", "Start")
    return git("rev-parse", "--short", "HEAD")


def _stay(before: list[Path]) -> list[str]:
    """Say that runs outlive their programs, if there are runs."""
    gone = {str(Experiment.of(file)) for file in before if not file.exists()}
    there = sorted(name for name in gone if (LOGS / "mlruns" / name).is_dir())
    return [f"the runs of {', '.join(there)} stay, with their source"] if there else []


def _say_origin(address: str) -> list[str]:
    """Say that a push would go to jikken."""
    return [f"origin is still {address}: git remote set-url origin ADDRESS"] if address else []


def _next_commands() -> list[str]:
    """The three commands that come next."""
    first = Experiment("model", "model01")
    new = f"{lab_command()} new {first.next().name} --minimal"
    return [run_command(first), f"{lab_command()} runs", new]


def print_start(done: Start) -> None:
    """Print what was made, and the commands that come next."""
    committed = f"in commit {done.commit}" if done.commit else f"but not committed: {NO_IDENTITY}"
    print(f"{ROOT} is a project of its own, {committed}")
    print("\n".join([*done.notes, "Next:", *(f"    {command}" for command in done.next)]))
