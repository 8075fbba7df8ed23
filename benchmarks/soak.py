"""A search whose workers are killed and preempted, one every 20 seconds: what is lost, what it costs.

    python benchmarks/soak.py [TRIALS] [SECONDS] [SEED]

Four nodes of Slurm with a worker each, PostgreSQL, an MLflow server and S3 (tests/scale; as root). A node
dies with its worker, or a job of higher priority takes it. The README has the result.
"""

import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import mkdtemp

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from conftest import Lab, make_clone, until
from scale.lab import STEPS, ClusterLab, expected
from scale.postgres import postgres
from scale.slurm import Slurm, slurm
from scale.stores import stores

WORKERS, LENGTH, STEP = 4, 20, 0.2  # seconds
NAME = "soak"


@dataclass
class Trouble:
    """Kills a node, or has it preempted, every few seconds; begins with the first trial."""

    cluster: Slurm
    every: float
    random: Random
    counted: Counter[str] = field(default_factory=Counter)
    over: threading.Event = field(default_factory=threading.Event)

    def make(self, has_begun: Callable[[], object]) -> None:
        until(has_begun, 600)
        while not self.over.wait(self.every):
            busy = sorted(set(self.cluster.places().values()))
            if busy:
                what = self.random.choice([self.kill, self.preempt])
                self.counted[what.__name__] += 1
                what(self.random.choice(busy))

    def kill(self, node: str) -> None:
        """The node is back as soon as Slurm has seen that it was gone."""
        self.cluster.kill(node)
        threading.Thread(target=self.repair, args=(node,)).start()

    def repair(self, node: str) -> None:
        until(lambda: self.cluster.state(node).startswith("down"), 300)
        self.cluster.start(node)

    def preempt(self, node: str) -> None:
        self.cluster.ask("sbatch", "-phigh", f"-w{node}", "-o/dev/null", "--wrap=sleep 1")


def soak(lab: ClusterLab, cluster: Slurm, trouble: Trouble, trials: int) -> float:
    """Search; returns the seconds that it took."""
    began = time.monotonic()
    asked = ["x=interval(0,1)", f"steps={LENGTH}", f"seconds={STEP}", "hydra/sweeper/pruner=none"]
    study = [f"hydra.sweeper.n_trials={trials}", f"hydra.sweeper.study_name={NAME}"]
    workers = ["workers=slurm", f"workers.count={WORKERS}", "workers.partition=low"]
    one = ["workers.cpus=1", "hydra.sweeper.n_jobs=1"]
    maker = threading.Thread(target=trouble.make, args=(lab.taken,))
    maker.start()
    try:
        board = lab.start_sweep(STEPS, *asked, *study, *workers, *one)
        out, err = board.communicate()
        print(out, err)
    finally:
        trouble.over.set()
        maker.join()
    took = time.monotonic() - began
    until(lambda: not cluster.jobs(), 300)
    return took


def report(lab: ClusterLab, trouble: Trouble, trials: int, took: float) -> None:
    """Print what the table of the README has."""
    with lab.opened(NAME) as study:
        done = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
        left = Counter(trial.state.name for trial in study.trials)
        runs = Counter(run.info.status for run in lab.trial_runs(study))
    of_run = Counter(trial.user_attrs["run_id"] for trial in done)
    right = sum(trial.value == expected(trial.params["x"], LENGTH) for trial in done)
    computed = sum(map(len, lab.taken().values()))
    restarts = sum(
        file.read_text().count(": begins") for file in lab.root.glob("logs/workers/soak/*.out")
    )
    print(f"wall                 {took:.0f} s")
    print(f"events               {dict(trouble.counted)}")
    print(
        f"results              {len(done)} of {trials}, {len(of_run)} runs, {right} as undisturbed"
    )
    print(f"trials by state      {dict(left)}")
    print(f"runs by state        {dict(runs)}")
    print(f"starts of a worker   {restarts}, of which {WORKERS} the first")
    print(f"overhead a trial     {took * WORKERS / trials - LENGTH * STEP:.2f} s of a worker")
    print(f"steps twice          {computed - trials * LENGTH} of {computed}")


def main(trials: int = 200, every: int = 20, seed: int = 0) -> None:
    folder = Path(mkdtemp())
    make_clone(Lab(folder / "lab"))
    with (
        postgres() as database,
        stores(folder / "stores", database) as addresses,
        slurm(folder / "slurm", nodes=WORKERS, cpus=1) as cluster,
    ):
        lab = ClusterLab(folder / "lab", addresses | cluster.environment)
        lab.add_steps()
        cluster.separate(lab.root / "logs/lightning")
        trouble = Trouble(cluster, every, Random(seed))
        report(lab, trouble, trials, soak(lab, cluster, trouble, trials))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
