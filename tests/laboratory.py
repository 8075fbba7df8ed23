"""A laboratory with some history, and `lab` typed in it.

Beside the quick first run of `lab` it has: one setting with two seeds, a run of a dirty tree, which is
the best, one that failed, and a search of three trials.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import MODEL, QUICK, Lab, made_once

LAB = Path(sys.prefix) / "bin" / "lab"
SEEDS = "does the seed matter?"


def typed(lab: Lab, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`lab …` in a laboratory, however it ends."""
    process = lab.start(LAB, *arguments, **{"COLUMNS": "100"} | environment)
    out, err = process.communicate(timeout=240)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def said(lab: Lab, *arguments: str | Path, **environment: str) -> str:
    """What a `lab` command printed, which must succeed without a warning."""
    done = typed(lab, *arguments, **environment)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def refused(lab: Lab, *arguments: str | Path, **environment: str) -> str:
    """The one line with which a `lab` command is refused."""
    done = typed(lab, *arguments, **environment)
    assert (done.returncode, done.stdout) == (2, ""), done.stdout + done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.fixture(scope="session", name="laboratory")
def a_laboratory(shared: Path, lab: Lab) -> Lab:
    """To be read only."""

    def make(place: Lab) -> None:
        lab.copied(place.root)
        live(place)

    return made_once(shared / "laboratory", make)


@pytest.fixture(name="changeable")
def a_changeable_one(laboratory: Lab, tmp_path: Path) -> Lab:
    """A copy of the laboratory that the test may change."""
    return laboratory.copied(tmp_path / "changeable")


def live(place: Lab) -> None:
    """Make some history."""
    for seed in ("1", "2"):
        place.done(MODEL, *QUICK, f"seed={seed}", f"note={SEEDS}", "tags=[seeds]")
    program = place.root / MODEL
    clean = program.read_text()
    program.write_text(f"{clean}\n# a change that was not committed\n")
    place.done(MODEL, *QUICK, "learning_rate=0.01", "note=faster")
    program.write_text(clean)
    assert place.run(MODEL, *QUICK, "hidden=9000000000000", "note=doomed").returncode == 1
    search = ["learning_rate=interval(0.001,0.002)", "hydra.sweeper.n_trials=3"]
    place.done(MODEL, *QUICK, "-m", *search, "hydra.sweeper.n_jobs=2", "note=search")
