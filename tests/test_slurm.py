"""Searches and trainings on a Slurm cluster of two nodes, with PostgreSQL, an MLflow server and S3.

One search lives through what happens to workers on a cluster: its trials wait at a step until all of it has
happened. Most tests are statements about this search.
"""

import json
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import MODEL, QUICK, Lab, until
from laboratory import said
from scale.lab import STEPS, ClusterLab, expected
from scale.slurm import Slurm
from sweeps import states

pytestmark = [
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
]
TRIALS, LENGTH, HOLD = 12, 12, 4
SLURM = ["workers=slurm", "workers.cpus=1", "workers.partition=low"]
SEARCH = ["x=interval(0,1)", "hydra.sweeper.n_jobs=1", "hydra/sweeper/pruner=none", *SLURM]
LOAD = """
    from src.utils.tracking import load_model

    print(load_model({run!r}, trust_source=True)["step"])
"""


@pytest.fixture(scope="module")
def cluster_lab(
    lab: Lab,
    slurm_cluster: Slurm,
    remote_stores: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> ClusterLab:
    """A laboratory with data and the experiment `steps`; no machine sees the artifacts of another."""
    root = lab.copied(tmp_path_factory.mktemp("cluster") / "lab").root
    place = ClusterLab(root, remote_stores | slurm_cluster.environment)
    place.add_steps()
    slurm_cluster.separate(root / "logs/lightning")
    return place


def eventually(condition: Callable[[], Any]) -> Any:
    """Wait as long as it may take on a machine that does much else."""
    return until(condition, 300)


@dataclass
class Search:
    """A search, and the runs that were interrupted."""

    lab: ClusterLab
    name: str
    output: str = ""
    lost: set[str] = field(default_factory=set)  # ids of runs on the node that died
    preempted: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)

    def attempts(self) -> dict[str, list[str]]:
        """The states of the trials that each run was, by its id."""
        return self.lab.attempts(self.name)

    def holding(self) -> dict[str, str]:
        """The runs that wait for the gate: id and host."""
        taken = {run for run, steps in self.lab.taken().items() if (HOLD - 1) in dict(steps)}
        hosts = self.lab.running_runs(self.name)
        return {run: host for run, host in hosts.items() if run in taken}

    def is_stored(self, run: str) -> bool:
        """Whether what a run has saved is in the store."""
        return bool(self.lab.client.list_artifacts(run, "model"))


@pytest.fixture(scope="module")
def search(cluster_lab: ClusterLab, slurm_cluster: Slurm) -> Iterator[Search]:
    """A search of 12 trials by 4 workers, of which one node dies, two are preempted, and one is cancelled."""
    found = Search(cluster_lab, "eventful")
    asked = [f"steps={LENGTH}", f"hold={HOLD}", f"hydra.sweeper.n_trials={TRIALS}"]
    name = f"hydra.sweeper.study_name={found.name}"
    board = cluster_lab.start_sweep(STEPS, *SEARCH, *asked, name, "workers.count=4")
    try:
        befall(found, slurm_cluster, board)
        found.output = "".join(board.communicate(timeout=300))
        assert board.returncode == 0, found.output
        eventually(lambda: not slurm_cluster.jobs())
        yield found
    finally:
        board.kill()
        board.communicate()
        slurm_cluster.clear()


def befall(search: Search, cluster: Slurm, board: subprocess.Popen[str]) -> None:
    """What happens to the search, from the first trials until nothing holds them any more."""

    def all_hold() -> dict[str, str] | None:
        assert board.poll() is None, board.communicate()
        found = search.holding()
        return found if len(found) == 4 and all(map(search.is_stored, found)) else None

    hosts = eventually(all_hold)
    assert Counter(hosts.values()) == {"n1": 2, "n2": 2}
    search.lost = {run for run, host in hosts.items() if host == "n1"}
    search.preempted = hosts.keys() - search.lost

    cluster.kill("n1")
    cluster.ask("sbatch", "-phigh", "-wn2", "-n2", "-o/dev/null", "--wrap=sleep 1")
    eventually(lambda: all(len(search.attempts()[run]) > 1 for run in search.preempted))
    eventually(lambda: search.preempted <= search.holding().keys())

    # What begins again from now on begins on n1, when that is back: not where the trial is cancelled.
    cluster.ask("scontrol", "update", "nodename=n2", "state=drain", "reason=test")
    before = search.attempts()
    cluster.ask("scancel", next(job for job, node in cluster.places().items() if node == "n2"))

    def cancelled() -> set[str]:
        now = search.attempts()
        return {run for run in search.preempted if len(now[run]) > len(before[run])}

    search.cancelled = eventually(cancelled)

    # Before, Slurm takes the jobs of n1 for alive
    eventually(lambda: cluster.state("n1").startswith("down"))
    cluster.start("n1")
    eventually(lambda: len(search.holding()) == 3)
    (search.lab.place / "go").touch()
    cluster.ask("scontrol", "update", "nodename=n2", "state=resume")


def test_every_trial_counts_once(search: Search) -> None:
    """The study has all its trials, and no more; none is left running in the study or in MLflow."""
    with search.lab.opened(search.name) as study:
        counted = states(study)
        assert (counted["COMPLETE"], counted["RUNNING"], counted["WAITING"]) == (TRIALS, 0, 0)
        done = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
        assert len({trial.params["x"] for trial in done}) == TRIALS
        runs = search.lab.trial_runs(study)
        assert Counter(run.info.status for run in runs) == {"FINISHED": TRIALS}
        assert search.lab.study_run(study).info.status == "FINISHED"
        assert {run.info.run_id for run in runs} == {one.user_attrs["run_id"] for one in done}


def test_values(search: Search) -> None:
    """A trial has the value that it would have had, whatever has interrupted it, and all that it reported."""
    for trial in search.lab.trials(search.name):
        if trial.state.name != "COMPLETE":
            continue
        assert trial.value == expected(trial.params["x"], LENGTH)
        assert sorted(trial.intermediate_values) == list(range(1, LENGTH + 1))


def test_interrupted_runs_go_on(search: Search) -> None:
    """A preempted or cancelled trial goes on in its own run, and no step is computed twice; one of a
    node that died goes on from what was stored in S3, for the node comes back with empty folders."""
    taken, attempts = search.lab.taken(), search.attempts()
    for run in search.preempted | search.lost:
        assert attempts[run][-1] == "COMPLETE"
        assert set(attempts[run][:-1]) == {"FAIL"}
    for run in search.preempted:
        assert [step for step, _ in taken[run]] == list(range(LENGTH))
    for run in search.lost:
        numbers = [step for step, _ in taken[run]]
        assert numbers[-LENGTH + HOLD :] == list(range(HOLD, LENGTH))
        assert numbers.count(0) == 1


def test_the_best_model(search: Search, clone: Lab, tmp_path: Path) -> None:
    """The best model loads from S3 in a clone that never ran it."""
    other = ClusterLab(clone.copied(tmp_path / "other").root, search.lab.addresses)
    other.add_steps()
    with search.lab.opened(search.name) as study:
        best = study.best_trial.user_attrs["run_id"]
    assert other.python(LOAD.format(run=best))[0] == f"{LENGTH}\n"


def test_detaching_and_stopping(cluster_lab: ClusterLab, slurm_cluster: Slurm) -> None:
    """After Ctrl-C the workers go on; `lab stop` ends them, and leaves nothing that is running."""
    name = "hydra.sweeper.study_name=stopped"
    board = cluster_lab.start_sweep(STEPS, *SEARCH, "steps=10000", name, "workers.count=2")
    found = Search(cluster_lab, "stopped")
    eventually(lambda: board.poll() is not None or len(found_running(found)) == 2)
    board.send_signal(signal.SIGINT)
    out, err = board.communicate(timeout=60)
    assert board.returncode == 0, out + err
    assert "lab stop stopped" in out + err
    assert len(slurm_cluster.places()) == 2

    stated = json.loads(said(cluster_lab, "studies", "stopped", "--json"))
    assert stated["state"] == "running"
    assert stated["workers"][0]["states"] == {"running": 2}
    said(cluster_lab, "stop", "stopped")
    eventually(lambda: not slurm_cluster.jobs())
    with cluster_lab.opened("stopped") as study:
        assert states(study)["RUNNING"] == 0
        assert Counter(run.info.status for run in cluster_lab.trial_runs(study)) == {"KILLED": 2}


def found_running(search: Search) -> list[str]:
    return [run for run, attempts in search.attempts().items() if run and "RUNNING" in attempts]


def test_one_training_on_two_nodes(
    cluster_lab: ClusterLab, slurm_cluster: Slurm, fresh: Lab
) -> None:
    """The processes that srun starts on two nodes with a common file system are one training, and one run."""
    lab = ClusterLab(fresh.root, cluster_lab.addresses)
    before = {run.info.run_id for run in lab.runs("model/model01")}
    asked = ["+trainer.num_nodes=2", "trainer.devices=1", "trainer.strategy=ddp"]
    command = ["srun", "-plow", "-N2", "-n2", "-c1", lab.root / ".venv/bin/python", MODEL]
    process = lab.start(*command, *QUICK, *asked)
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, out + err
    (run,) = [run for run in lab.runs("model/model01") if run.info.run_id not in before]
    assert run.info.status == "FINISHED"
