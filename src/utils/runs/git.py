"""Calling git in a repository, whatever the environment says of another one."""

import os
import subprocess
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from subprocess import PIPE

# What a hook or `git rebase --exec` sets (`git rev-parse --local-env-vars`): it names one repository
LOCAL = {
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_IMPLICIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_PREFIX"),
    *("GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES"),
    *("GIT_CONFIG", "GIT_CONFIG_PARAMETERS", "GIT_CONFIG_COUNT", "GIT_SHALLOW_FILE"),
    *("GIT_GRAFT_FILE", "GIT_NO_REPLACE_OBJECTS", "GIT_REPLACE_REF_BASE", "GIT_NAMESPACE"),
}
# In containers the owner of a folder is often another user, and git would refuse; some users have it refuse
# bare repositories, too. What git tidies up is done when a call is.
SETTINGS = (
    *("-c", "safe.directory=*"),
    *("-c", "safe.bareRepository=all"),
    *("-c", "gc.autoDetach=false"),
)


class GitError(Exception):
    """Git can't do what it was asked to; or there is no git. The message is one line."""


def git(
    folder: Path,
    *arguments: str,
    stdin: bytes = b"",
    output: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> bytes:
    """Call git in a folder; returns what it prints.

    Args:
        output: a file to which it is written instead.
        environment: variables in addition to those of this process.

    Raises:
        GitError: git has failed, or is not installed.
    """
    command = ["git", *SETTINGS, "-C", str(folder), *arguments]
    env = {**git_environment(), **(environment or {})}
    try:
        with nullcontext(PIPE) if output is None else output.open("wb") as out:
            done = subprocess.run(
                command, input=stdin, stdout=out, stderr=PIPE, check=True, env=env
            )
    except OSError as error:
        raise GitError(f"git can't be called: {error.strerror}") from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines() or ["failed"]
        reason = next((line for line in lines if line.startswith(("fatal:", "error:"))), lines[-1])
        raise GitError(f"git {arguments[0]}: {reason}") from None
    return done.stdout or b""


def has_commit(repository: Path, commit: str) -> bool:
    """Whether a repository has a commit with its files; False if it is none."""
    try:
        git(repository, "cat-file", "-e", f"{commit}^{{tree}}")
    except GitError:
        return False
    return True


def git_environment() -> dict[str, str]:
    """The environment of this process without what names one repository."""
    return {name: value for name, value in os.environ.items() if name not in LOCAL}
