"""Runs made in varied ways, at random, and how many of them rerun bit-identically.

    python benchmarks/reproduce.py [RUNS] [SEED]

In a clone of its own: dirty trees, deleted experiments, trials, runs resumed after SIGKILL, rebuilt data,
lost commits, runs of another clone (tests/varied_runs.py). At the end code and data are other ones, and half
of the data versions are gone. The README has the result.
"""

import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random
from tempfile import mkdtemp

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from conftest import Lab, make_clone
from test_reproducing import verdict
from varied_runs import WAYS, change_everything, prepare


def reproduce(lab: Lab, count: int, random: Random) -> Counter[tuple[str, bool]]:
    """Make runs and repeat them; counts by way and whether the rerun was identical."""
    make_clone(lab)
    prepare(lab)
    made: list[tuple[str, str]] = []
    while len(made) < count:
        name = random.choice([*WAYS])
        made += [(name, run_id) for run_id in WAYS[name](lab, random)]
        print(f"{len(made):4} of {count} made: {name}", flush=True)
    change_everything(lab, random)
    counted: Counter[tuple[str, bool]] = Counter()
    for number, (name, run_id) in enumerate(made[:count], 1):
        found = verdict(lab, run_id)
        counted[name, found == "identical"] += 1
        print(f"{number:4} of {count} repeated: {name} {run_id[:8]} {found}", flush=True)
    return counted


def main(count: int = 100, seed: int = 0) -> None:
    folder, began = Path(mkdtemp()), time.monotonic()
    counted = reproduce(Lab(folder / "clone"), count, Random(seed))
    for name in WAYS:
        identical, other = counted[name, True], counted[name, False]
        print(f"{name:16} {identical:3} of {identical + other:3} identical")
    identical = sum(number for (_, same), number in counted.items() if same)
    print(f"{identical} of {count} identical, {time.monotonic() - began:.0f} s")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
