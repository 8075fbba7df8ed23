"""A laboratory as programs use it: runs that end in every way, and `lab --json` typed in it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab, made_once
from laboratory import typed
from sweeps import SweepLab

NAME, PROGRAM = "model/model94", "src/model/model94/endings.py"
SETTINGS = """\
defaults:
  - /model
  - _self_

rate: 0.1
hidden: 64
layers: [64, 32]
end: value
"""
# Exit statuses of the programs, by what is typed
ENDS = {
    ("note=first", "rate=0.1"): 0,
    ("rate=0.01", "hidden=32"): 0,
    ("rat=1",): 2,
    ("end=memory", "rate=1", "hidden=128"): 1,
    ("end=interrupt", "rate=1", "hidden=128"): 130,
    ("end=terminate", "rate=1", "hidden=128"): 143,
}
SWEEP = ["rate=0.2,0.4", "hidden=16", "end=value,pruned", "note=search"]


@pytest.fixture(scope="session")
def scripted(shared: Path, lab: Lab) -> Lab:
    """Beside the quick run of `lab` the runs of ENDS, and a study with two pruned trials. To be read only."""

    def make(place: Lab) -> None:
        lab.copied(place.root)
        for side in ("src", "config"):
            (place.root / side / NAME).mkdir()
        shutil.copy(Path(__file__).with_name("endings.py"), place.root / PROGRAM)
        (place.root / "config" / NAME / "config.yaml").write_text(SETTINGS)
        place.git("add", ".")
        place.git("commit", "--quiet", "--message=Endings")
        output, sweeps = shared / "endings", SweepLab(place.root)
        output.mkdir()
        ended = sweeps.run_lines([[PROGRAM, *line] for line in ENDS], output)
        assert [status for status, _ in ended] == list(ENDS.values()), ended
        sweeps.sweep(PROGRAM, *SWEEP)

    return made_once(shared / "scripted", make)


def document(lab: Lab, *arguments: str | Path, status: int = 0, error: str | None = "") -> Any:
    """What `lab … --json` prints on stdout: one document of JSON, without NaN and Infinity.

    Args:
        error: what stderr has; None means anything.
    """
    done = typed(lab, *arguments, "--json")
    assert done.returncode == status, done.stdout + done.stderr
    assert error is None or done.stderr == error
    return json.loads(done.stdout, parse_constant=pytest.fail)
