"""The promise as a whole: any run can be repeated bit for bit, whatever has become of code and data since."""

from random import Random

import pytest
from conftest import Lab
from laboratory import typed
from varied_runs import WAYS, change_everything, prepare

ROUNDS = 3  # of all ways


@pytest.mark.timeout(1200)
def test_thirty_varied_runs(bare: Lab) -> None:
    """Of thirty runs made in varied ways, thirty rerun bit-identically."""
    random = Random(0)
    prepare(bare)
    made = [
        (name, run_id)
        for _ in range(ROUNDS)
        for name, way in WAYS.items()
        for run_id in way(bare, random)
    ]
    change_everything(bare, random)
    verdicts = {f"{name} {run_id}": verdict(bare, run_id) for name, run_id in made[:30]}
    assert len(verdicts) == 30
    assert {*verdicts.values()} == {"identical"}, verdicts


def verdict(lab: Lab, run_id: str) -> str:
    """What `lab rerun` comes to; its whole output where it is no verdict."""
    done = typed(lab, "rerun", run_id)
    lines = [line for line in done.stdout.splitlines() if line.startswith("verdict: ")]
    if not lines or "bit-identical" not in done.stdout:
        return done.stdout + done.stderr
    return lines[0].removeprefix("verdict: ").partition(",")[0]
