"""The provenance of a run: the state of the code, the packages, the hardware and the command.

Nothing here writes to the store. `src/utils/runs/artifacts.py` saves it in the folder `provenance/`.
"""

import json
import os
import platform
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from src.utils.cores import count_affine_cores
from src.utils.paths import ROOT
from src.utils.process import BRANCH
from src.utils.runs.git import GitError, git
from src.utils.store.record import DETACHED

import psutil

METADATA = (
    "metadata.json",
    "facts.json",
)  # the file in `provenance/`, and its name in earlier versions
MAX_FILE = 5 * 2**20  # bytes of an untracked file; a larger one is only named
MAX_UNTRACKED = 20 * 2**20  # bytes of all untracked files; the smallest come first
# Options that make a patch that applies, whatever the user's git configuration says
PLAIN_DIFF = ("--binary", "--no-color", "--no-ext-diff", "--src-prefix=a/", "--dst-prefix=b/")
SHOW_SUBMODULE = 'echo "$(git rev-parse HEAD) $displaypath"'
# Git's own id of the empty tree, for a repository without commits
EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"


_git = partial(git, ROOT)


@dataclass(frozen=True)
class GitState:
    """The exact state of the working tree: `commit` with `changes.patch` applied.

    The fields are the keys in `metadata.json`.
    """

    commit: str
    branch: str
    patch: bytes
    left_out: list[str]  # untracked files that are too large, and repositories inside this one
    submodules: dict[str, str] = field(default_factory=dict)  # the commit of each, by its path

    @property
    def dirty(self) -> bool:
        """Whether there are uncommitted changes."""
        return bool(self.patch or self.left_out)


@cache  # a process runs the code that it has imported, whatever is edited meanwhile
def git_state() -> GitState | None:
    """The state of the repository at the first call; None without git or a repository."""
    try:
        listed = _git("ls-files", "--others", "--exclude-standard", "-z").decode().split("\0")
    except GitError:
        return None
    untracked = [name for name in listed if name and os.path.lexists(ROOT / name)]
    included, left_out = _split_by_size(untracked)
    commit = _head()
    branch = _git("branch", "--show-current").decode().strip() or os.environ.get(BRANCH, DETACHED)
    patch = _patch(commit or EMPTY_TREE, included)
    return GitState(commit, branch, patch, left_out, _submodules())


def _submodules() -> dict[str, str]:
    """Those that are checked out. Their uncommitted changes are not kept."""
    if not (ROOT / ".gitmodules").exists():
        return {}
    command = ("submodule", "--quiet", "foreach", "--recursive", SHOW_SUBMODULE)
    try:
        lines = _git(*command).decode().splitlines()
    except GitError:
        return {}
    return {path: commit for commit, _, path in (line.partition(" ") for line in lines)}


def _split_by_size(untracked: list[str]) -> tuple[list[str], list[str]]:
    """The untracked files that go into the patch, and those that are left out."""
    included: list[str] = []
    left_out: list[str] = []
    room = MAX_UNTRACKED
    for size, name in sorted(((ROOT / name).lstat().st_size, name) for name in untracked):
        room -= size
        fits = size <= MAX_FILE and room >= 0 and not name.endswith("/")
        (included if fits else left_out).append(name)
    return included, left_out


def _patch(base: str, untracked: list[str]) -> bytes:
    """Changes and untracked files as one patch, made with a copy of the index: git's own stays as it is."""
    paths = ("rev-parse", "--path-format=absolute", "--git-path")
    index, objects = (_git(*paths, name).decode().strip() for name in ("index", "objects"))
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            "GIT_INDEX_FILE": f"{folder}/index",
            "GIT_OBJECT_DIRECTORY": folder,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": objects,
        }
        if Path(index).exists():
            # With its time: a file that changed in the second of the last commit, and has the same size,
            # is compared by git only if the index is not newer
            shutil.copy2(index, environment["GIT_INDEX_FILE"])
        names = "\0".join(untracked).encode()
        _git("update-index", "--add", "-z", "--stdin", stdin=names, environment=environment)
        return _git("diff", *PLAIN_DIFF, base, environment=environment)


def _head() -> str:
    """The commit that is checked out; empty before the first one."""
    try:
        return _git("rev-parse", "--verify", "--quiet", "HEAD").decode().strip()
    except GitError:
        return ""


def packages() -> list[str]:
    """`name==version` of every package that this process can import."""
    return installed(Path(entry) for entry in sys.path if entry.endswith("site-packages"))


def installed(folders: Iterable[Path]) -> list[str]:
    """`name==version` of every package in some folders, from the names of the dist-info folders.

    A linked worktree has packages of its own, which come before those of the same name in the main checkout.
    """
    found: list[str] = []
    for folder in dict.fromkeys(folders):
        known = {package.partition("==")[0] for package in found}
        here = [info.stem.replace("-", "==", 1) for info in folder.glob("*.dist-info")]
        found += [package for package in here if package.partition("==")[0] not in known]
    return sorted(found)


def hardware() -> dict[str, str | int | list[str]]:
    """The hardware that the run may use. GPUs are listed only if the experiment has imported torch."""
    torch = sys.modules.get("torch")
    cuda = torch.cuda if torch and torch.cuda.is_available() else None
    return {
        "machine": platform.node(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "threads": torch.get_num_threads() if torch else _threads(),
        "gpus": [cuda.get_device_name(i) for i in range(cuda.device_count())] if cuda else [],
    }


def _threads() -> int:
    """How many threads NumPy and libraries with OpenMP use: without a variable, one for each core."""
    number = os.environ.get("OMP_NUM_THREADS", "")
    if number.isdigit() and int(number) > 0:
        return int(number)
    return count_affine_cores()


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def command() -> str:
    """The command of this process, as it can be typed again."""
    return shlex.join([Path(sys.executable).name, *sys.argv])


def read_metadata(folder: Path | None) -> dict[str, Any]:
    """Read what a run has recorded of its command, hardware and git.

    Args:
        folder: the artifact `provenance`; None if the run has none.

    Returns:
        The keys `command`, `hardware` and `git`; empty if nothing was recorded.
    """
    files = [folder / name for name in METADATA] if folder else []
    file = next((file for file in files if file.exists()), None)
    return json.loads(file.read_text()) if file else {}
