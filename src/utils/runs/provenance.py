"""Pure facts about where a run comes from: the code, the packages, the machine, the command."""

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from src.utils.paths import ROOT

import psutil

METADATA = ("metadata.json", "facts.json")  # a run's file, and its name in earlier versions
LARGEST_FILE = 5 * 2**20  # bytes; a larger untracked file is named in the run, not copied
LARGEST_PATCH = 20 * 2**20  # bytes of untracked files in all: the smallest are copied, up to this
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
    left_out: list[str]  # untracked files that are too large, and repositories inside this one

    @property
    def dirty(self) -> bool:
        return bool(self.patch or self.left_out)


@cache  # a process runs the code that it has imported, whatever is edited meanwhile
def code() -> Code | None:
    """The state of the repository; None where there is no git or no repository."""
    try:
        listed = _git("ls-files", "--others", "--exclude-standard", "-z").decode().split("\0")
    except (OSError, subprocess.CalledProcessError):
        return None
    kept, left_out = _sorted_out([name for name in listed if name and os.path.lexists(ROOT / name)])
    commit = _git("rev-parse", "--verify", "--quiet", "HEAD", check=False).decode().strip()
    branch = _git("branch", "--show-current").decode().strip() or "(detached)"
    return Code(commit, branch, _patch(commit or EMPTY_TREE, kept), left_out)


def _sorted_out(untracked: list[str]) -> tuple[list[str], list[str]]:
    """Untracked files that a patch has room for, and those that it hasn't."""
    kept: list[str] = []
    left_out: list[str] = []
    room = LARGEST_PATCH
    for size, name in sorted(((ROOT / name).lstat().st_size, name) for name in untracked):
        room -= size
        fits = size <= LARGEST_FILE and room >= 0 and not name.endswith("/")
        (kept if fits else left_out).append(name)
    return kept, left_out


def _patch(base: str, untracked: list[str]) -> bytes:
    """Changes and untracked files as one patch, made beside the index: git sees no difference."""
    places = ("rev-parse", "--path-format=absolute", "--git-path")
    index, objects = (_git(*places, name).decode().strip() for name in ("index", "objects"))
    with tempfile.TemporaryDirectory() as folder:
        beside = {
            "GIT_INDEX_FILE": f"{folder}/index",
            "GIT_OBJECT_DIRECTORY": folder,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": objects,
        }
        if Path(index).exists():
            shutil.copy(index, beside["GIT_INDEX_FILE"])
        names = "\0".join(untracked).encode()
        _git("update-index", "--add", "-z", "--stdin", stdin=names, environment=beside)
        return _git("diff", *PLAIN, base, environment=beside)


def _git(
    *arguments: str,
    stdin: bytes = b"",
    check: bool = True,
    environment: Mapping[str, str] | None = None,
) -> bytes:
    # Whoever owns ROOT: in containers that is often someone else, and git would refuse.
    command = ["git", "-c", "safe.directory=*", "-C", str(ROOT), *arguments]
    env = {**os.environ, **(environment or {})}
    return subprocess.run(command, input=stdin, capture_output=True, check=check, env=env).stdout


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


def read_metadata(folder: Path | None) -> dict[str, Any]:
    """What a run has recorded of its command, hardware and git; empty without the folder `provenance/`."""
    files = [folder / name for name in METADATA] if folder else []
    file = next((one for one in files if one.exists()), None)
    return json.loads(file.read_text()) if file else {}


def command() -> str:
    """What was typed, as it can be typed again."""
    return shlex.join([Path(sys.executable).name, *sys.argv])
