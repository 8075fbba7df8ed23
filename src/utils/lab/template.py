"""The template that a project is made from, which is this repository: `lab init`, `lab upgrade`.

copier renders it, as copier.yml says; git compares and merges what it renders.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from src.utils.errors import UserError, first_line, one_line
from src.utils.paths import ROOT

ANSWERS = ".copier-answers.yml"  # address and version of the template, and what was answered to it
SHORT_ADDRESSES = {"gh:": "https://github.com/", "gl:": "https://gitlab.com/", "git+": ""}
ELSEWHERE = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"}  # set in a hook, of another folder
REFUSED_ANSWER = re.compile(r"(?:Validation error for question|Invalid choice for) '(\w+)': (.*)")
NO_PROMPT = {"GIT_TERMINAL_PROMPT": "0"}
# A commit that is not the user's needs an author all the same.
NOBODY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "jikken"), ("EMAIL", "jikken@localhost"))
}


def git(
    *arguments: str | Path, folder: Path = ROOT, environment: Mapping[str, str] | None = None
) -> str:
    """Call git in a folder, and return what it prints.

    Args:
        environment: variables beside those of this process

    Raises:
        UserError: git is not installed, or refuses; the message is its own.
    """
    variables = {key: value for key, value in os.environ.items() if key not in ELSEWHERE}
    command = ["git", "-C", str(folder), *map(str, arguments)]
    try:
        done = subprocess.run(
            command,
            env=variables | dict(environment or {}),
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise UserError("git is not installed: install it, and call again") from None
    if done.returncode != 0:
        raise UserError(f"git {arguments[0]}: {one_line(done.stderr.strip() or done.stdout)}")
    return done.stdout.strip()


def check_clean() -> None:
    """Refuse a repository in which a file that git knows has changed.

    Raises:
        UserError: it has, or this is no repository.
    """
    top = Path(git("rev-parse", "--show-toplevel"))
    if top.resolve() != ROOT.resolve():
        raise UserError(f"{ROOT} is not a repository of its own but a part of {top}: git init here")
    changed = git("status", "--porcelain", "--untracked-files=no").splitlines()
    if changed:
        raise UserError(
            f"{changed[0][2:].strip()} has changes{_others(changed)} that git has not: commit or stash them"
        )


def _others(names: list[str]) -> str:
    return f", and {len(names) - 1} more" if len(names) > 1 else ""


def has_identity() -> bool:
    """Whether git knows whose commits are made here."""
    try:
        return bool(git("-c", "user.useConfigOnly=true", "var", "GIT_AUTHOR_IDENT"))
    except UserError:
        return False


@contextmanager
def cloned(address: str | Path) -> Iterator[Path]:
    """A clone of the template in a temporary folder.

    Raises:
        UserError: there is none at the address.
    """
    for short, long in SHORT_ADDRESSES.items():
        address = re.sub(rf"^{re.escape(short)}/?", long, str(address))
    with tempfile.TemporaryDirectory(prefix="jikken-") as folder:
        clone = Path(folder, "template")
        try:
            git("clone", "--quiet", "--no-local", "--", address, clone, environment=NO_PROMPT)
        except UserError as error:
            raise UserError(f"no repository answers at {address}: {_last_words(error)}") from None
        if not (clone / "copier.yml").exists():
            raise UserError(
                f"{address} is a project, not jikken: say where that is with --from ADDRESS"
            )
        yield clone


def _last_words(error: UserError) -> str:
    """What git says after `fatal:`."""
    return str(error).rpartition("fatal: ")[2]


def render(
    template: Path, commit: str, folder: Path, answers: Mapping[str, Any], **options: Any
) -> None:
    """Write the files of a project into a folder.

    Args:
        template: a clone
        commit: of the template
        answers: to the questions of copier.yml, which is asked for the others
        options: of copier.run_copy

    Raises:
        UserError: an answer is refused.
    """
    import copier
    from copier.errors import CopierError

    try:
        copier.run_copy(
            str(template),
            folder,
            dict(answers),
            vcs_ref=commit,
            quiet=True,
            overwrite=True,
            **options,
        )
    except KeyboardInterrupt:  # which copier counts among its errors
        raise KeyboardInterrupt from None
    except (CopierError, ValueError) as error:
        refused = REFUSED_ANSWER.match(one_line(error))
        reason = f"--{refused[1]}: {refused[2]}" if refused else f"copier: {first_line(error)}"
        raise UserError(reason) from None


def write_tree(folder: Path) -> str:
    """Keep the files of a folder in this repository as a tree of git, and return its id.

    Raises:
        UserError: git refuses.
    """
    with tempfile.TemporaryDirectory(prefix="jikken-") as index:
        place = {
            "GIT_DIR": git("rev-parse", "--absolute-git-dir"),
            "GIT_WORK_TREE": str(folder),
            "GIT_INDEX_FILE": f"{index}/index",
        }
        git("add", "--all", folder=folder, environment=place)
        return git("write-tree", folder=folder, environment=place)


def read_answers(folder: Path = ROOT) -> dict[str, Any]:
    """What .copier-answers.yml says.

    Raises:
        UserError: there is none.
    """
    import yaml

    file = folder / ANSWERS
    if not file.exists():
        raise UserError(
            f"there is no {ANSWERS}: lab init makes this clone a project of its own first"
        )
    return dict(yaml.safe_load(file.read_text()))


def write_address(file: Path, address: str) -> None:
    """Say in the file of the answers where the template is."""
    import yaml

    line = yaml.safe_dump({"_src_path": address}, allow_unicode=True, width=1000).strip()
    file.write_text(re.sub(r"(?m)^_src_path:.*$", lambda _: line, file.read_text()))
