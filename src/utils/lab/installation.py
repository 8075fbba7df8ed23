"""Checks of `lab doctor` on what is installed: Python, .venv, packages, git, and torch for the GPU.

`refuse_code_of_another` is called before every other `lab` command.
"""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from src.utils.errors import UserError
from src.utils.lab.finding import Finding
from src.utils.paths import LOGS, MAIN_CHECKOUT, ROOT, find_other_project
from src.utils.runs.provenance import packages

import pynvml
from packaging.specifiers import SpecifierSet

SETUP = "rm -f .venv/.jikken-ready && bash scripts/setup.sh"  # installs anew, whatever is there
MOST_PACKAGES = 5  # that are named in one line


def check_installation() -> Iterator[Finding]:
    """Run all checks of the installation."""
    yield _check_python()
    yield _check_code()
    yield _check_packages()
    yield _check_git()
    yield _check_gpu()


def _check_python() -> Finding:
    version, required = sys.version.split()[0], _project()["requires-python"]
    if version in SpecifierSet(required, prereleases=True):
        return Finding("python", version)
    return Finding.bad("python", f"{version}, but {required} is needed", f"rm -r .venv && {SETUP}")


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project


def _check_code() -> Finding:
    """Whether .venv imports the code of this folder: in a copied project it may be the original's."""
    imported, copy = _imported_source(), venv_of_copy()
    if imported != ROOT / "src":
        message = f"{sys.prefix} imports {imported or 'no src'}, not {ROOT / 'src'}"
        return Finding.bad("code", message, SETUP)
    if copy:
        fix = f"cd {shlex.quote(str(copy.parent))} && {SETUP}"
        return Finding.bad("code", f"{copy} runs the code of {ROOT}", fix)
    return Finding("code", str(imported))


def _imported_source() -> Path | None:
    """The folder that `import src` finds from any working directory."""
    command = [sys.executable, "-P", "-c", "import src; print(*src.__path__)"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    return Path(done.stdout.strip()).resolve() if done.returncode == 0 else None


def refuse_code_of_another() -> None:
    """Refuse to go on with the code of one checkout where that of another is meant.

    Raises:
        UserError: .venv is another folder's; or the working directory is in another copy or worktree, whose
            .venv was not used.
    """
    venv, other = venv_of_copy(), find_other_project(Path.cwd())
    if venv:
        raise UserError(
            f"{venv} runs the code of {ROOT}, with its runs: "
            f"bash {venv.parent}/scripts/setup.sh makes it that folder's own"
        )
    if other and not _is_named():
        raise UserError(
            f"this is the lab of {ROOT}, and you are in {other}: type {other}/.venv/bin/lab, which "
            f"bash {other}/scripts/setup.sh makes; or go to {ROOT}"
        )


def venv_of_copy() -> Path | None:
    """The .venv in use, if it lies in a copy of this project but imports the code of this folder.

    A PYTHONPATH that names this folder is intended: None.
    """
    if _is_named():
        return None
    environments = (Path(sys.prefix), Path(sys.argv[0]).absolute().parent.parent)
    return next((venv for venv in environments if _is_copy(venv.parent)), None)


def _is_named() -> bool:
    """Whether PYTHONPATH names this folder: its code is meant then."""
    folders = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return ROOT in (Path(folder).resolve() for folder in folders)


def _is_copy(folder: Path) -> bool:
    """Whether it holds another project like this one."""
    here = Path(__file__).resolve().relative_to(ROOT)
    return (folder / here).exists() and not folder.samefile(ROOT)


def _check_packages() -> Finding:
    """Compare the installed packages with poetry.lock."""
    installed: dict[str, list[str]] = {}
    for name, version in (package.split("==", 1) for package in packages()):
        installed.setdefault(_normalized(name), []).append(version)
    locked: dict[str, set[str]] = {}
    for package in tomllib.loads((ROOT / "poetry.lock").read_text())["package"]:
        locked.setdefault(_normalized(package["name"]), set()).add(package["version"])
    required = {
        _normalized(re.split(r"[ <>=!~;\[]", line)[0]) for line in _project()["dependencies"]
    }
    missing = sorted(required - set(installed))
    other = sorted(
        f"{name} {' and '.join(versions)} instead of {', '.join(locked[name])}"
        for name, versions in installed.items()
        if name in locked and not {version.split("+")[0] for version in versions} <= locked[name]
    )
    if not missing and not other:
        return Finding("packages", f"{len(installed)}, as poetry.lock has them")
    parts = [f"missing: {', '.join(missing)}"] if missing else []
    parts += [f"other than in poetry.lock: {'; '.join(other[:MOST_PACKAGES])}"] if other else []
    parts += [f"and {len(other) - MOST_PACKAGES} more"] if len(other) > MOST_PACKAGES else []
    return Finding.bad("packages", "; ".join(parts), SETUP)


def _normalized(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def _check_git() -> Finding:
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    try:
        head = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return Finding.warning("git", "is not installed", "install it: runs then record a commit")
    if head.returncode == 0:
        linked = f", a worktree of {MAIN_CHECKOUT}, whose store it shares"
        return Finding("git", f"at commit {head.stdout.strip()}{linked * (ROOT != MAIN_CHECKOUT)}")
    if (ROOT / ".git").is_file():
        message = f"this worktree has lost its repository; its runs go to {LOGS}"
        fix = f"in the main checkout: git worktree repair {shlex.quote(str(ROOT))}"
        return Finding.warning("git", message, fix)
    fix = "git init && git add . && git commit -m Start: runs then record a commit"
    return Finding.warning("git", "this is not a repository with a commit", fix)


def _check_gpu() -> Finding:
    gpus = ", ".join(_gpu_names())
    if not gpus:
        return Finding("gpu", f"none: trainings use {os.cpu_count()} cores")
    cuda = _torch_cuda()
    if cuda is None:
        fix = "install a torch build for it: see pytorch.org, «Get Started»"
        return Finding.bad("gpu", f"{gpus}, but torch is built for the CPU alone", fix)
    return Finding("gpu", f"{gpus}; torch is built for CUDA {cuda}")


def _gpu_names() -> list[str]:
    """From the driver, without starting CUDA."""
    try:
        pynvml.nvmlInit()
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return [str(pynvml.nvmlDeviceGetName(handle)) for handle in handles]
    except pynvml.NVMLError:  # no driver
        return []


def _torch_cuda() -> str | None:
    """The CUDA or HIP version that torch is built for, read from its files: importing it is slow."""
    spec = find_spec("torch")
    file = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    text = file.read_text() if file and file.exists() else ""
    version = re.search(r"^(?:cuda|hip)\b.*= '(.*)'", text, re.MULTILINE)
    return version[1] if version else None
