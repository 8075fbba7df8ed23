"""A search whose workers are killed or preempted, one every 20 seconds: what is lost, what it costs.

    python benchmarks/soak.py [TRIALS] [SECONDS] [SEED]

Four nodes of Slurm with a worker each, PostgreSQL, an MLflow server and S3 (tests/scale; as root). A worker
gets SIGKILL, or dies with its node, or a job of higher priority takes its place. The README has the result.
"""

import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median
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
    """Takes a worker every few seconds; a node that was killed is back soon."""

    lab: ClusterLab
    cluster: Slurm
    every: float
    random: Random
    counted: Counter[str] = field(default_factory=Counter)
    killed: set[str] = field(default_factory=set)

    def make(self, has_begun: Callable[[], object], has_ended: Callable[[], object]) -> None:
        """Begin with the first trial, and return when all jobs have ended.

        A node ends with the thread that has started it: this is the main thread.
        """
        until(has_begun, 600)
        due = time.monotonic() + self.every
        while not has_ended() or self.cluster.jobs():
            time.sleep(0.5)
            self.repair()
            if time.monotonic() > due and not has_ended():
                self.strike()
                due += self.every

    def repair(self) -> None:
        """Start the nodes that Slurm has seen to be gone."""
        for node in sorted(self.killed):
            if self.cluster.state(node).startswith("down"):
                self.cluster.start(node)
                self.killed.remove(node)

    def strike(self) -> None:
        """Take one of the workers, if any is there."""
        placed = sorted(job for job in self.cluster.places().items() if "_" in job[0])
        there = [node for _, node in placed if node not in self.killed]
        if there:
            what = self.random.choice([self.kill_worker, self.kill_node, self.preempt])
            self.counted[what.__name__] += 1
            what(self.random.choice(there))

    def kill_worker(self, node: str) -> None:
        """By SIGKILL, as for lack of memory; its trials are processes of their own."""
        for worker in self.lab.workers():
            if worker.info["environ"].get("SLURMD_NODENAME") == node:
                worker.kill()

    def kill_node(self, node: str) -> None:
        self.cluster.kill(node)
        self.killed.add(node)

    def preempt(self, node: str) -> None:
        self.cluster.ask("sbatch", "-phigh", f"-w{node}", "-o/dev/null", "--wrap=sleep 1")


def soak(lab: ClusterLab, trouble: Trouble, trials: int) -> float:
    """Search; returns the seconds from the command until its last line."""
    began = time.monotonic()
    asked = ["x=interval(0,1)", f"steps={LENGTH}", f"seconds={STEP}", "hydra/sweeper/pruner=none"]
    study = [f"hydra.sweeper.n_trials={trials}", f"hydra.sweeper.study_name={NAME}"]
    four = ["workers=slurm", f"workers.count={WORKERS}", "workers.partition=low"]
    one = ["workers.cpus=1", "hydra.sweeper.n_jobs=1"]
    board = lab.start_sweep(STEPS, *asked, *study, *four, *one)

    def follow() -> tuple[float, str]:
        out, err = board.communicate()
        return time.monotonic(), out + err

    with ThreadPoolExecutor() as pool:
        ended = pool.submit(follow)
        trouble.make(lab.taken, ended.done)
        end, output = ended.result()
    print(output)
    return end - began


def report(lab: ClusterLab, trouble: Trouble, trials: int, took: float) -> None:
    """Print what the table of the README has."""
    with lab.opened(NAME) as study:
        done = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
        left = Counter(trial.state.name for trial in study.trials)
        stored = lab.trial_runs(study)
        runs = Counter(run.info.status for run in stored)
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
    for run in stored:
        if run.info.status != "FINISHED":
            print(f"  {run.info.run_id[:8]} {run.data.tags.get('reason')}")
    print(f"starts of a worker   {restarts}, of which {WORKERS} the first")
    undisturbed = median(one.duration.total_seconds() for one in done if one.duration)
    print(
        f"a trial              {undisturbed:.2f} s (median), of which {LENGTH * STEP:.0f} s are steps"
    )
    print(
        f"a worker, a trial    {took * WORKERS / trials:.2f} s, with all that it waited and began again"
    )
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
        trouble = Trouble(lab, cluster, every, Random(seed))
        report(lab, trouble, trials, soak(lab, trouble, trials))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
