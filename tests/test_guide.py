"""The guide: each page is typed in a laboratory, and the site is built of all of them."""

import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser import PROGRAMS, Browser
from conftest import ROOT, Lab, carry, commit, made_once
from guide import Command, Reader, steps
from mnist import DATASET, FEATURE, MODEL

GUIDE = ROOT / "docs"
needed = pytest.mark.skipif(
    not (ROOT / MODEL).exists(), reason="the worked example was removed from this project"
)
PAGES = [ROOT / "README.md", *sorted(GUIDE.glob("*.md"))]
ENGLISH = [page for page in PAGES if ".ja." not in page.name]
TYPED = [page for page in ENGLISH if any(steps(page.read_text()))]
POETRY = '#!/bin/sh\nshift; program=$1; shift; exec "{bin}/$program" "$@"\n'


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="session", name="guide")
def a_laboratory(shared: Path) -> Lab:
    """This repository with the features of its examples, and a run of each. To be read only."""

    def make(lab: Lab) -> None:
        tracked = Lab(ROOT).git("ls-files", ":!tests", ":!benchmarks").splitlines()
        carry([one for one in tracked if (ROOT / one).exists()], lab.root)
        commit(lab)
        lab.done(DATASET, "source=sample")
        lab.done(FEATURE)
        lab.done("src/feature/feature02/bike_hours.py")
        lab.done(MODEL, "network=mlp", "max_epochs=1")

    return made_once(shared / "guide", make)


@pytest.fixture(name="reader")
def a_reader(guide: Lab, tmp_path: Path) -> Reader:
    """Someone in a copy, with an empty home and `poetry run`."""
    lab = guide.copied(tmp_path / "lab")
    programs, home = tmp_path / "bin", tmp_path / "home"
    programs.mkdir()
    home.mkdir()
    poetry = programs / "poetry"
    poetry.write_text(POETRY.format(bin=Path(sys.prefix) / "bin"))
    poetry.chmod(0o755)
    person = {f"GIT_{role}_{part}": "Test" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(home),
        "XDG_CACHE_HOME": str(Path.home() / ".cache"),  # of matplotlib's fonts
        "COLUMNS": "100",
    }
    return Reader(lab, lab.root, environment | person)


@needed
@pytest.mark.parametrize("page", TYPED, ids=name)
def test_commands(page: Path, reader: Reader) -> None:
    """Each command that a page shows can be typed, in order, and prints what the page shows."""
    for step in steps(page.read_text()):
        reader.do(step)
