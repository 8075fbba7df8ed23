"""The code of a run as it was, in a folder of its own: the commit, the patch, the untracked files."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from src.utils.errors import UserError
from src.utils.layout import DATA, ROOT

PLACE = ROOT / "outputs" / "reruns"


@contextmanager
def worktree(name: str, commit: str, patch: Path, keep: bool = False) -> Iterator[Path]:
    """A git worktree at `commit` with `patch` applied; yours is never touched."""
    folder = PLACE / name
    remove(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        _check_out(folder, commit)
        if patch.stat().st_size:
            _git(folder, "apply", "--whitespace=nowarn", str(patch.resolve()))
        yield folder
    finally:
        if not keep:
            remove(folder)


def _check_out(folder: Path, commit: str) -> None:
    if not commit:  # the run is older than the first commit: its patch holds everything
        folder.mkdir()
        _git(folder, "init", "--quiet")
        return
    try:
        _git(ROOT, "worktree", "add", "--quiet", "--detach", str(folder), commit)
    except UserError:
        raise UserError(
            f"commit {commit[:12]} is not in this repository: git fetch, then try again"
        ) from None


def remove(folder: Path) -> None:
    """Also what an earlier rerun that was killed left there."""
    if folder.exists():
        shutil.rmtree(folder)
    subprocess.run(["git", "-C", ROOT, "worktree", "prune"], check=False, capture_output=True)


def lend_data(folder: Path, but: str) -> None:
    """Let it read the data of this repository, except those it is to make itself."""
    for stage, place in DATA.items():
        for data in place.iterdir() if place.exists() else ():
            copy = folder / data.relative_to(ROOT)
            if (
                f"{stage}/{data.name}" != but
                and data.is_dir()
                and not data.name.startswith(".")
                and not copy.exists()
            ):
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.symlink_to(data)


def _git(folder: Path, *arguments: str) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise UserError(f"git {arguments[0]} failed: {done.stderr.strip()}")
