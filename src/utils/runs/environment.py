"""The packages of a run: an environment with exactly the versions that it had.

It is made once, in `outputs/environments/<digest of Python's version and the packages>`, and used again. A
package of which today's environment has the same version is linked from there, file by file, and takes no
space; pip installs the others. The run's `poetry.lock` has hashes and sources of those that agree with it.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.metadata import Distribution, PathDistribution
from importlib.util import cache_from_source, find_spec
from pathlib import Path
from typing import Any

from src.utils.errors import UserError, first_line
from src.utils.files import link_or_copy
from src.utils.paths import ENVIRONMENTS, MAIN_CHECKOUT, ROOT, display_path
from src.utils.runs.provenance import installed, packages
from src.utils.runs.repeat import PastRun

from filelock import FileLock
from rich import get_console
from rich.progress import track

READY = "ready"  # the file that is written last
MOST_NAMES = 8  # in one line


def differing_packages(past: PastRun) -> dict[str, tuple[str, str]]:
    """The packages of which today's environment has another version, or none: `{"idna": ("3.6", "3.7")}`."""
    then, now = _versions(_recorded(past)), _versions(packages())
    names = sorted({*then, *now} - {_project(ROOT)})
    pairs = {name: (then.get(name, ""), now.get(name, "")) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def environment_of(past: PastRun, checkout: Path) -> Path:
    """Make the environment of a run, if it isn't there yet; returns its Python.

    Args:
        checkout: where the code of the run is, with its poetry.lock and pyproject.toml.

    Raises:
        UserError: the run's version of Python is not on the PATH, or a package can't be installed.
    """
    version = ".".join(past.metadata["hardware"]["python"].split(".")[:2])
    own = _project(checkout)
    wanted = {name: one for name, one in _versions(_recorded(past)).items() if name != own}
    digest = hashlib.sha256(json.dumps([version, sys.platform, wanted]).encode()).hexdigest()
    folder = ENVIRONMENTS / digest[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not (folder / READY).exists():  # one that was killed may have left a part
            shutil.rmtree(folder, ignore_errors=True)
            try:
                _make(folder, version, wanted, checkout / "poetry.lock")
            except BaseException as error:
                shutil.rmtree(folder, ignore_errors=True)
                if isinstance(error, OSError | subprocess.CalledProcessError):
                    raise UserError(f"the environment can't be made: {first_line(error)}") from None
                raise
        (folder / READY).touch()  # by its time lab gc knows when it was used last
    return folder / "bin" / "python"


def _recorded(past: PastRun) -> list[str]:
    return (past.provenance / "packages.txt").read_text().split()


def _versions(lines: Iterable[str]) -> dict[str, str]:
    """Versions by the names of packages, as PEP 503 has names."""
    pairs = (line.partition("==") for line in lines)
    return dict(sorted((_canonical(name), version) for name, _, version in pairs))


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _project(checkout: Path) -> str:
    """The name of the project, whose code is that of the checkout."""
    values = _read_toml(checkout / "pyproject.toml")
    tables = (values.get("project", {}), values.get("tool", {}).get("poetry", {}))
    return _canonical(next((table["name"] for table in tables if "name" in table), ""))


def _read_toml(file: Path) -> dict[str, Any]:
    return tomllib.loads(file.read_text()) if file.exists() else {}


def _make(folder: Path, version: str, wanted: dict[str, str], lock: Path) -> None:
    python = _find_python(version)
    subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    here = _todays_distributions() if version == _version_of_today() else {}
    same = {pair[0]: here[pair] for pair in wanted.items() if pair in here}
    text = f"packages of then: {len(same)} of today's"
    console = get_console()
    hidden = not console.is_terminal
    for distribution in track(same.values(), text, console=console, transient=True, disable=hidden):
        _link(distribution, site, folder)
    others = {name: one for name, one in wanted.items() if name not in same}
    _say(folder, len(same), others)
    _install(folder / "bin" / "python", others, lock)
    missing = sorted(wanted.items() - _versions(installed([site])).items())
    if missing:
        name, one = missing[0]
        raise UserError(
            f"{name} {one} was installed, and is not there: --packages can't be had here"
        )


def _say(folder: Path, n_linked: int, others: dict[str, str]) -> None:
    names = [f"{name} {version}" for name, version in others.items()]
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    installs = f", {len(names)} to install: {', '.join(names[:MOST_NAMES])}{more}" if names else ""
    text = f"[bold]packages[/] {display_path(folder)}: {n_linked} linked from today's{installs}"
    get_console().print(text, soft_wrap=True, highlight=False)


def _version_of_today() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _find_python(version: str) -> str:
    """The Python to make an environment with; one that is found may be a shim of pyenv, which fails."""
    if version == _version_of_today():
        return str(getattr(sys, "_base_executable", sys.executable))
    for name in (f"python{version}", "python3", "python"):
        command = [name, "-c", "import sys; print('%d.%d' % sys.version_info[:2], sys.executable)"]
        with suppress(OSError):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0 and done.stdout.startswith(f"{version} "):
                return done.stdout.split(maxsplit=1)[1].strip()
    raise UserError(
        f"the run had Python {version}, and there is no python{version} on the PATH: install it, or repeat "
        "the run without --packages"
    )


def _todays_distributions() -> dict[tuple[str, str], Distribution]:
    """What can be linked: packages of this environment with a list of their files, by name and version."""
    found: dict[tuple[str, str], Distribution] = {}
    for folder in [Path(entry) for entry in sys.path if entry.endswith("site-packages")]:
        for info in folder.glob("*.dist-info"):
            name, _, version = info.stem.partition("-")
            if (info / "RECORD").exists():
                found.setdefault((_canonical(name), version), PathDistribution(info))
    return found


def _link(distribution: Distribution, site: Path, folder: Path) -> None:
    """Link the files of a package; its programs name the Python of the environment."""
    there = Path(str(distribution.locate_file("")))
    for file in distribution.files or ():
        origin, copy = there / file, Path(os.path.normpath(site / file))
        if copy.is_relative_to(site):
            _link_file(origin, copy)
            compiled = Path(cache_from_source(origin)) if copy.suffix == ".py" else None
            if compiled is not None and compiled.exists():
                _link_file(compiled, copy.parent / "__pycache__" / compiled.name)
        elif copy.is_relative_to(folder) and origin.is_file():  # bin, share, etc
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(origin, copy)
            _readdress(copy, folder)


def _link_file(origin: Path, copy: Path) -> None:
    """Hard links take no space; on another file system it is a copy."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    if origin.exists() and not os.path.lexists(copy):  # else it is gone, or two packages have it
        link_or_copy(origin, copy)


def _readdress(program: Path, folder: Path) -> None:
    """Replace the environment that the first lines of a program name: long paths are in the second."""
    content = program.read_bytes()
    if content.startswith(b"#!"):
        new = os.fsencode(folder / "bin" / "python")
        program.write_bytes(
            re.sub(rb"/[^\s\"']*/bin/python(?=[\d.]*[\s\"'])", new, content, count=1)
        )


def _install(python: Path, wanted: dict[str, str], lock: Path) -> None:
    """Have pip install packages: those with hashes are checked against them, the others can't be."""
    entries = _read_toml(lock).get("package", [])
    locked = {(_canonical(one["name"]), one["version"]): one for one in entries}
    chosen = [locked.get(pair, {"name": pair[0], "version": pair[1]}) for pair in wanted.items()]
    sources = [one.get("source", {}) for one in chosen]
    indexes = {one["url"] for one in sources if one.get("type") == "legacy"}
    options = [f"--extra-index-url={url}" for url in sorted(indexes)]
    hashed = [_requirement(one, lock) for one in chosen if _has_hashes(one)]
    others = [_requirement(one, lock) for one in chosen if not _has_hashes(one)]
    _run_pip(python, hashed, [*options, "--require-hashes"])
    _run_pip(python, others, options)


def _has_hashes(package: dict[str, Any]) -> bool:
    kind = package.get("source", {}).get("type")
    return bool(package.get("files")) and kind not in ("git", "directory")


def _requirement(package: dict[str, Any], lock: Path) -> str:
    """The line of a requirements file for an entry of poetry.lock."""
    name, source = package["name"], package.get("source", {})
    hashes = "".join(f" --hash={file['hash']}" for file in package.get("files", ()))
    match source.get("type"):
        case "git":
            return f"{name} @ git+{source['url']}@{source['resolved_reference']}"
        case "url":
            return f"{name} @ {source['url']}{hashes}"
        case "file" | "directory":
            return f"{name} @ {(lock.parent / source['url']).resolve().as_uri()}"
    return f"{name}=={package['version']}{hashes}"


def _run_pip(python: Path, requirements: Sequence[str], options: Sequence[str]) -> None:
    """What pip says of its progress is shown; what it says of an error becomes one line."""
    if not requirements:
        return
    mirror = os.environ.get("POETRY_PYPI_MIRROR_URL")
    environment = os.environ | ({"PIP_INDEX_URL": mirror} if mirror else {}) | {"PIP_USER": "0"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "requirements.txt"
        file.write_text("\n".join(requirements) + "\n")
        pip = [*_pip(), "--python", str(python), "install", "--no-deps", "--no-input", *options]
        done = subprocess.run(
            [*pip, "--no-warn-script-location", "--disable-pip-version-check", "-r", str(file)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        lines = [one for one in done.stderr.splitlines() if one.startswith("ERROR:")] or ["ERROR: "]
        reason = lines[-1].removeprefix("ERROR: ") or "pip failed"
        raise UserError(f"the packages of the run can't be installed: {reason}")


def _pip() -> list[str]:
    """The pip of today's environment, or of the Poetry that scripts/setup.sh has made."""
    poetry = MAIN_CHECKOUT / ".poetry" / "bin" / "python"
    if find_spec("pip") is None and not poetry.exists():
        raise UserError("--packages needs pip: .venv/bin/python -m ensurepip")
    return [sys.executable if find_spec("pip") else str(poetry), "-m", "pip"]
