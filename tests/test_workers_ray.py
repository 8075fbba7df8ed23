"""`workers=ray` on a real Ray cluster of two nodes, of which one dies.

All of it has a network of its own (scale/ray_cluster.py), and so have PostgreSQL, the MLflow server and S3.
"""

import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab, until
from laboratory import said
from scale.lab import STEPS, ClusterLab, expected
from scale.postgres import postgres
from scale.ray_cluster import RayCluster, loopback_only, ray_cluster
from scale.stores import stores
from sweeps import states

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
]
TRIALS, LENGTH, HOLD = 6, 6, 3
SEARCH = ["x=interval(0,1)", "hydra.sweeper.n_jobs=1", "hydra/sweeper/pruner=none", "workers=ray"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """A cluster of two nodes with two cores each."""
    with loopback_only(), ray_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def place(
    clone: Lab, cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ClusterLab]:
    """A laboratory with the experiment `steps`, and servers in the network of the cluster."""
    folder = tmp_path_factory.mktemp("ray")
    with postgres() as database, stores(folder / "stores", database) as addresses:
        root = clone.copied(folder / "lab").root
        place = ClusterLab(root, addresses | {"RAY_ADDRESS": cluster.address})
        place.add_steps()
        yield place


def eventually(condition: Callable[[], Any]) -> Any:
    """Wait as long as it may take on a machine that does much else."""
    return until(condition, 300)


def states_of_workers(place: ClusterLab, name: str) -> dict[str, int]:
    """What `lab studies` says of the workers of a study; nothing if all have ended."""
    jobs = json.loads(said(place, "studies", name, "--json"))["workers"]
    return jobs[0]["states"] if jobs else {}


def test_a_node_dies(place: ClusterLab, cluster: RayCluster) -> None:
    """After Ctrl-C a search goes on without its command; when a node dies, its trials go on on the other one,
    in their own runs. Each counts once, has the value that it would have had, and none is left."""
    name = "eventful"
    asked = [f"steps={LENGTH}", f"hold={HOLD}", f"hydra.sweeper.n_trials={TRIALS}"]
    board = place.start_sweep(
        STEPS, *SEARCH, *asked, f"hydra.sweeper.study_name={name}", "workers.count=4"
    )

    def all_hold() -> bool:
        assert board.poll() is None, board.communicate()
        taken = place.taken()
        found = place.running_runs(name)
        return len(found) == 4 and all(
            len(taken.get(run, [])) == HOLD and place.client.list_artifacts(run, "model")
            for run in found
        )

    eventually(all_hold)
    board.send_signal(signal.SIGINT)
    output = "".join(board.communicate(timeout=60))
    assert board.returncode == 0, output
    assert f"lab stop {name}" in output
    hosts = place.running_runs(name)
    assert Counter(hosts.values()) == {"head": 2, "second": 2}
    assert states_of_workers(place, name) == {"running": 4}

    cluster.kill("second")
    (place.place / "go").touch()
    eventually(lambda: Counter(one.state.name for one in place.trials(name))["COMPLETE"] == TRIALS)
    with place.opened(name) as study:  # the last worker closes it
        eventually(lambda: place.study_run(study).info.status == "FINISHED")
        counted = states(study)
        runs = place.trial_runs(study)
        assert (counted["COMPLETE"], counted["RUNNING"], counted["WAITING"]) == (TRIALS, 0, 0)
        assert Counter(run.info.status for run in runs) == {"FINISHED": TRIALS}
    for trial in place.trials(name):
        if trial.state.name == "COMPLETE":
            assert trial.value == expected(trial.params["x"], LENGTH)
    lost = [run for run, host in hosts.items() if host == "second"]
    taken = place.taken()
    for run in lost:
        assert [step for step, _ in taken[run]] == list(range(LENGTH))
        assert taken[run][-1] == (LENGTH - 1, "head")


def test_stopping(place: ClusterLab, cluster: RayCluster) -> None:
    """A worker that is killed begins again, with its trial. `lab stop` ends the workers that run, and the one
    that waits for a place; none is left running."""
    name, places = "stopped", 2 * len(cluster.nodes)
    asked = ["steps=10000", f"hydra.sweeper.study_name={name}", f"workers.count={places + 1}"]
    board = place.start_sweep(STEPS, *SEARCH, *asked)
    eventually(lambda: board.poll() is not None or len(place.running_runs(name)) == places)
    assert states_of_workers(place, name) == {"running": places, "pending": 1}
    place.workers()[0].kill()
    eventually(lambda: ["FAIL", "RUNNING"] in place.attempts(name).values())
    said(place, "stop", name)
    output = "".join(board.communicate(timeout=240))
    assert "all workers of stopped have ended" in output
    with place.opened(name) as study:
        assert states(study)["RUNNING"] == 0
        assert Counter(run.info.status for run in place.trial_runs(study)) == {"KILLED": places}


def test_refusals(place: ClusterLab, tmp_path: Path) -> None:
    """Without a cluster, or without Ray, the command says so in one line and leaves no study."""
    asked = [*SEARCH, "hydra.sweeper.study_name=refused"]
    (tmp_path / "ray.py").write_text("raise ImportError")
    path = f"{place.root}{os.pathsep}{tmp_path}"
    for environment, reason in (
        ({"RAY_ADDRESS": "127.0.0.9:1"}, "no Ray cluster answers at 127.0.0.9:1"),
        ({"PYTHONPATH": path}, "pip install ray"),
    ):
        done = place.run(STEPS, "-m", *asked, **environment)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stdout + done.stderr
        assert reason in done.stderr
    assert not place.trials("refused")
