"""poetry.lock in `lab upgrade`: where both sides have changed it, it is made anew from the project's own."""

import os
import shutil
import subprocess
import sys

from src.utils.errors import UserError
from src.utils.lab.template import git
from src.utils.paths import ROOT

LOCK = "poetry.lock"


def lock_packages(trees: list[str]) -> str:
    """Bring poetry.lock in line with pyproject.toml after a merge, and say what is to be done, if anything.

    Args:
        trees: of the engine, before and after
    """
    before, after = (_object(tree) for tree in trees)
    own = _object("HEAD")
    if before == after or own == after:
        return ""
    if own == before:
        return "its packages have changed: bash scripts/setup.sh"
    git("checkout", "HEAD", "--", LOCK)
    if git("ls-files", "--unmerged", "--", "pyproject.toml"):
        return f"{LOCK} is as it was: poetry lock, when pyproject.toml has no markers any more"
    if _poetry_lock():
        git("add", LOCK)
        return f"{LOCK} is made anew from your packages and jikken's: bash scripts/setup.sh"
    return f"{LOCK} is as it was, since Poetry could not lock: with the network, type poetry lock"


def _object(tree: str) -> str:
    """The id of the lock file there."""
    try:
        return git("rev-parse", "--verify", "--quiet", f"{tree}:{LOCK}")
    except UserError:
        return ""


def _poetry_lock() -> bool:
    """Lock what is new in pyproject.toml; packages that are locked keep their versions."""
    own = ROOT / ".poetry" / "bin" / "python"
    poetry = [str(own), "-m", "poetry"] if own.exists() else [shutil.which("poetry") or ""]
    if not poetry[0]:
        return False
    print("poetry lock …", file=sys.stderr)
    environment = os.environ | ({"POETRY_PYPI_MIRROR_URL": _index()} if own.exists() else {})
    done = subprocess.run(
        [*poetry, "lock", "--no-interaction"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def _index() -> str:
    """Where pip looks for packages, as scripts/setup.sh has it."""
    command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return os.environ.get("POETRY_PYPI_MIRROR_URL") or os.environ.get("PIP_INDEX_URL") or found
