"""`lab rerun RUN --packages`: a run is repeated with the versions of packages that it had."""

import json
import os
import shutil
import signal
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest
from conftest import DATASET, Lab, until
from laboratory import LAB, refused, typed

# What a dataset does without: linking the others takes a second
LARGE = ("torch", "nvidia", "triton", "jupyter", "notebook", "plotly", "sympy", "babel")
WHEEL = "small-1.0-py3-none-any.whl"


def make_wheel(folder: Path, content: str) -> str:
    """Write the wheel of a package of one module; returns its digest."""
    folder.mkdir(exist_ok=True)
    info = "small-1.0.dist-info"
    files = {
        "small.py": content,
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: small\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
        wheel.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in files))
    return sha256((folder / WHEEL).read_bytes()).hexdigest()


@pytest.fixture
def pip(tmp_path: Path) -> dict[str, str]:
    """The environment in which pip finds one package, and nothing else."""
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "wheels")}


@pytest.fixture
def old(fresh: Lab, tmp_path: Path) -> Lab:
    """A laboratory whose newest dataset was made with a package that isn't installed any more."""
    digest = make_wheel(tmp_path / "wheels", "VALUE = 1\n")
    files = f'[{{file = "{WHEEL}", hash = "sha256:{digest}"}}]'
    lock = fresh.root / "poetry.lock"
    lock.write_text(f'[[package]]\nname = "small"\nversion = "1.0"\nfiles = {files}\n')
    fresh.git("commit", "--quiet", "--all", "--message=another lock")
    fresh.done(DATASET, "source=sample", "force=true")
    file = provenance(fresh) / "packages.txt"
    names = [one for one in file.read_text().split() if not one.lower().startswith(LARGE)]
    file.write_text("\n".join(sorted([*names, "small==1.0"])) + "\n")
    return fresh


def provenance(lab: Lab) -> Path:
    return lab.artifacts(lab.newest("dataset/dataset01")) / "provenance"


def without_project(file: Path) -> list[str]:
    return [one for one in file.read_text().split() if not one.startswith("jikken==")]


def test_the_packages_of_then(old: Lab, pip: dict[str, str], tmp_path: Path) -> None:
    """The rerun has exactly the versions of then, what is installed today by links, the rest by pip and its
    hash; a process that is killed leaves nothing half-made, and a second rerun installs nothing."""
    run, environments = old.newest("dataset/dataset01"), old.root / "outputs" / "environments"
    then = without_project(provenance(old) / "packages.txt")
    killed = old.start(LAB, "rerun", run.info.run_id, "--packages", **pip)
    until(lambda: list(environments.glob("[!.]*/lib/python*/site-packages/*")))
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()

    done = typed(old, "rerun", run.info.run_id, "--packages", **pip)
    assert "verdict: identical, with the packages of then" in done.stdout, done.stdout + done.stderr
    assert "1 to install: small 1.0" in done.stdout
    assert without_project(provenance(old) / "packages.txt") == then
    (environment,) = environments.glob("[!.]*/")
    (linked,) = environment.glob("lib/python*/site-packages/hydra/main.py")
    assert linked.stat().st_nlink > 1

    again = typed(old, "rerun", run.info.run_id, "--packages", "--json", **pip)
    found = json.loads(again.stdout)
    assert "to install" not in again.stderr
    assert (found["verdict"], found["packages"]) == ("identical", "then")
    assert found["packages_differ"]["small"] == {"then": "1.0", "now": None}

    shutil.rmtree(environment)
    make_wheel(tmp_path / "wheels", "VALUE = 2\n")
    line = typed(old, "rerun", run.info.run_id, "--packages", **pip).stderr
    assert line.startswith("error: the packages of the run can't be installed: ")
    assert "HASHES" in line
    assert line.count("\n") == 1
    assert list(environments.glob("[!.]*/")) == []


def test_another_python(fresh: Lab) -> None:
    """A Python that isn't there is named in one line; without --packages it is a difference."""
    file = provenance(fresh) / "metadata.json"
    metadata = json.loads(file.read_text())
    metadata["hardware"]["python"] = "3.2.1"
    file.write_text(json.dumps(metadata))
    run_id = fresh.newest("dataset/dataset01").info.run_id
    line = refused(fresh, "rerun", run_id, "--packages")
    assert "the run had Python 3.2, and there is no python3.2 on the PATH" in line
    done = typed(fresh, "rerun", run_id)
    assert "differs Python 3.2.1 then" in done.stdout, done.stdout + done.stderr
    assert "verdict: identical, with the same packages" in done.stdout
