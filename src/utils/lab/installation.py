"""Whether what is installed is what it should be: Python, packages, git, a torch for the GPU."""

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

from src.utils.lab.doctor import Finding
from src.utils.paths import ROOT
from src.utils.runs.provenance import packages

import pynvml
from packaging.specifiers import SpecifierSet

AGAIN = "rm -f .venv/.jikken-ready && bash scripts/setup.sh"


def check_installation() -> Iterator[Finding]:
    """One after the other."""
    yield from _python()
    yield from _code()
    yield from _packages()
    yield from _repository()
    yield from _gpus()


def _project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def _python() -> Iterator[Finding]:
    version, wanted = sys.version.split()[0], _project()["requires-python"]
    if version in SpecifierSet(wanted, prereleases=True):
        yield Finding("python", version)
    else:
        yield Finding.bad("python", f"{version}, but {wanted} is needed", f"rm -r .venv && {AGAIN}")


def _code() -> Iterator[Finding]:
    """Whose code the programs of .venv run: in a copied project it may be the original's."""
    imported, copy = imported_source(), environment_of_copy()
    if imported != ROOT / "src":
        said = f"{sys.prefix} imports {imported or 'no src'}, not {ROOT / 'src'}"
        yield Finding.bad("code", said, AGAIN)
    elif copy:
        mend = f"cd {shlex.quote(str(copy.parent))} && {AGAIN}"
        yield Finding.bad("code", f"{copy} runs the code of {ROOT}", mend)
    else:
        yield Finding("code", str(imported))


def _packages() -> Iterator[Finding]:
    """What is installed beside what poetry.lock says."""
    installed: dict[str, list[str]] = {}
    for name, version in (package.split("==", 1) for package in packages()):
        installed.setdefault(_name(name), []).append(version)
    locked: dict[str, set[str]] = {}
    for package in tomllib.loads((ROOT / "poetry.lock").read_text())["package"]:
        locked.setdefault(_name(package["name"]), set()).add(package["version"])
    needed = {_name(re.split(r"[ <>=!~;\[]", line)[0]) for line in _project()["dependencies"]}
    missing = sorted(needed - set(installed))
    other = sorted(
        f"{name} {' and '.join(found)} instead of {', '.join(locked[name])}"
        for name, found in installed.items()
        if name in locked and not {one.split("+")[0] for one in found} <= locked[name]
    )
    if missing or other:
        said = [f"missing: {', '.join(missing)}"] if missing else []
        said += [f"other than in poetry.lock: {'; '.join(other[:5])}"] if other else []
        said += [f"and {len(other) - 5} more"] if len(other) > 5 else []
        yield Finding.bad("packages", "; ".join(said), AGAIN)
    else:
        yield Finding("packages", f"{len(installed)}, as poetry.lock has them")


def _name(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def _repository() -> Iterator[Finding]:
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    try:
        head = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        yield Finding.warning("git", "is not installed", "install it: runs then know their commit")
        return
    if head.returncode == 0:
        yield Finding("git", f"at commit {head.stdout.strip()}")
    else:
        mend = "git init && git add . && git commit -m Start: runs then know their commit"
        yield Finding.warning("git", "this is no repository with a commit", mend)


def _gpus() -> Iterator[Finding]:
    names = gpu_names()
    spec = find_spec("torch")
    version = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    text = version.read_text() if version and version.exists() else ""
    built = re.search(r"^(?:cuda|hip)\b.*= '(.*)'", text, re.MULTILINE)
    if not names:
        yield Finding("gpu", f"none: trainings use {os.cpu_count()} cores")
    elif built is None:
        mend = "install a torch build for it: see pytorch.org, «Get Started»"
        yield Finding.bad("gpu", f"{', '.join(names)}, but torch is built for the CPU alone", mend)
    else:
        yield Finding("gpu", f"{', '.join(names)}; torch is built for CUDA {built[1]}")


def gpu_names() -> list[str]:
    """The GPUs that the driver knows, without touching them."""
    try:
        pynvml.nvmlInit()
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return [str(pynvml.nvmlDeviceGetName(handle)) for handle in handles]
    except pynvml.NVMLError:  # no driver
        return []


def environment_of_copy() -> Path | None:
    """The .venv of a copy that runs the code of this folder, unless PYTHONPATH says so."""
    typed = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    if ROOT in (Path(folder).resolve() for folder in typed):
        return None
    environments = (Path(sys.prefix), Path(sys.argv[0]).absolute().parent.parent)
    return next((one for one in environments if _is_of_a_copy(one.parent)), None)


def _is_of_a_copy(folder: Path) -> bool:
    """Another project like this one, not just any folder above it."""
    here = Path(__file__).resolve().relative_to(ROOT)
    return (folder / here).exists() and not folder.samefile(ROOT)


def imported_source() -> Path | None:
    """The folder that `import src` finds, wherever it is done."""
    command = [sys.executable, "-P", "-c", "import src; print(*src.__path__)"]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    return Path(found.stdout.strip()).resolve() if found.returncode == 0 else None


# MERGED lab/environment: Whether .venv belongs to this folder: in a copied project it may lead to the original.
