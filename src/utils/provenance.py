"""Pure facts about where a run comes from: the code, the packages, the machine, the command."""

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from src.utils.layout import ROOT

import psutil

LARGEST_FILE = 5 * 2**20  # bytes; a larger untracked file is named in the run, not copied
# A patch that applies, whatever a person's git is set to.
PLAIN = ("--binary", "--no-color", "--no-ext-diff", "--src-prefix=a/", "--dst-prefix=b/")
EMPTY_TREE = (
    "4b825dc642cb6eb9a060e54bf8d69288fbee4904"  # git's own, for a repository without commits
)


@dataclass(frozen=True)
class Code:
    """The exact state of the working tree: `git apply changes.patch` on `commit` gives it back."""

    commit: str
    branch: str
    patch: bytes
    left_out: list[str]  # untracked files over LARGEST_FILE

    @property
    def dirty(self) -> bool:
        return bool(self.patch or self.left_out)


@cache  # a process runs the code that it has imported, whatever is edited meanwhile
def code() -> Code | None:
    """The state of the repository; None where there is no git or no repository."""
    try:
        untracked = _git("ls-files", "--others", "--exclude-standard", "-z").decode().split("\0")
    except (OSError, subprocess.CalledProcessError):
        return None
    left_out = [name for name in untracked if name and (ROOT / name).lstat().st_size > LARGEST_FILE]
    commit = _git("rev-parse", "--verify", "--quiet", "HEAD", check=False).decode().strip()
    branch = _git("branch", "--show-current").decode().strip() or "(detached)"
    return Code(commit, branch, _patch(commit or EMPTY_TREE, left_out), left_out)


def _patch(base: str, left_out: list[str]) -> bytes:
    """Changes and untracked files as one patch, made in a copy of the index: git sees no difference."""
    index = Path(
        _git("rev-parse", "--path-format=absolute", "--git-path", "index").decode().strip()
    )
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder) / "index"
        if index.exists():
            shutil.copy(index, scratch)
        exclude = [f":(exclude,top,literal){name}" for name in left_out]
        _git("add", "--intent-to-add", "--", ".", *exclude, index=scratch)
        return _git("diff", *PLAIN, base, index=scratch)


def _git(*arguments: str, index: Path | None = None, check: bool = True) -> bytes:
    environment = {**os.environ, **({"GIT_INDEX_FILE": str(index)} if index else {})}
    command = ["git", "-C", str(ROOT), *arguments]
    done = subprocess.run(command, capture_output=True, check=check, env=environment)
    return done.stdout


def packages() -> list[str]:
    """`name==version` of everything installed, read off the names of the dist-info folders."""
    folders = {Path(entry) for entry in sys.path if entry.endswith("site-packages")}
    found = [info.stem for folder in folders for info in folder.glob("*.dist-info")]
    return sorted(name.replace("-", "==", 1) for name in found)


def hardware() -> dict[str, str | int | list[str]]:
    """What the run could use. GPUs are asked of torch, if the experiment has imported it."""
    torch = sys.modules.get("torch")
    cuda = torch.cuda if torch and torch.cuda.is_available() else None
    return {
        "machine": platform.node(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "threads": torch.get_num_threads() if torch else 1,
        "gpus": [cuda.get_device_name(i) for i in range(cuda.device_count())] if cuda else [],
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def command() -> str:
    """What was typed, as it can be typed again."""
    return shlex.join([Path(sys.executable).name, *sys.argv])
