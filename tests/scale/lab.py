"""A laboratory whose runs and studies are on servers, with an experiment whose trials can be resumed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import optuna
import psutil
from conftest import add_experiment
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from optuna.trial import FrozenTrial
from steps import next_state
from sweeps import SweepLab

STEPS = "src/model/model95/steps.py"
SETTINGS = """\
defaults:
  - /model
  - _self_

x: 0.5
steps: 20
seconds: 0.05
hold: -1
place: {place}
"""
PLACE = "logs/steps"


def expected(x: float, steps: int) -> float:
    """What a trial of the experiment returns, however often it was interrupted."""
    state = {"step": 0, "value": 1.0}
    for _ in range(steps):
        state = next_state(x, state)
    return state["value"]


@dataclass(frozen=True)
class ClusterLab(SweepLab):
    """It is a copy of a clone; its commands have the addresses of servers in their environment."""

    addresses: dict[str, str]

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {"OMP_NUM_THREADS": "1"} | self.addresses

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.addresses["MLFLOW_TRACKING_URI"])

    def runs(self, experiment: str) -> list[Run]:
        found = self.client.get_experiment_by_name(experiment)
        return list(self.client.search_runs([found.experiment_id])) if found else []

    @property
    def place(self) -> Path:
        """The folder of what its trials did, which all machines see."""
        return self.root / PLACE

    def add_steps(self) -> None:
        """Add the experiment `steps`."""
        self.place.mkdir(parents=True)
        add_experiment(self, STEPS, SETTINGS.format(place=self.place))

    def taken(self) -> dict[str, list[tuple[int, str]]]:
        """The steps that each run has computed, by its id, in their order: number and host."""
        found: dict[str, list[tuple[int, str]]] = {}
        trace = self.place / "trace"
        for line in trace.read_text().splitlines() if trace.exists() else []:
            run_id, step, host = line.split()
            found.setdefault(run_id, []).append((int(step), host))
        return found

    def trials(self, name: str) -> list[FrozenTrial]:
        """The trials of a study; none before it is there."""
        try:
            with self.opened(name) as study:
                return study.trials
        except KeyError:
            return []

    def workers(self) -> list[psutil.Process]:
        """The processes of its workers that run the experiment, without those of their trials."""
        found = psutil.process_iter(["cmdline", "ppid", "environ"])
        programs = {one.pid: one for one in found if STEPS in (one.info["cmdline"] or [])}
        mine = [one for one in programs.values() if self._is_here(one.info["environ"] or {})]
        return [one for one in mine if one.info["ppid"] not in programs]

    def _is_here(self, environment: dict[str, str]) -> bool:
        """Whether a process with this environment runs code of this laboratory, and not of another test."""
        return Path(environment.get("PYTHONPATH", "/")).is_relative_to(self.root)

    def attempts(self, name: str) -> dict[str, list[str]]:
        """The states of the trials that each run was, by its id."""
        found: dict[str, list[str]] = {}
        for trial in self.trials(name):
            found.setdefault(trial.user_attrs.get("run_id", ""), []).append(trial.state.name)
        return found

    def running_runs(self, name: str) -> dict[str, str]:
        """The runs of the trials that run, each with its host."""
        known = [one.user_attrs for one in self.trials(name) if one.state.name == "RUNNING"]
        # One that has just begun has no run yet; one that has just been taken up, no process.
        begun = [attributes for attributes in known if attributes.keys() >= {"run_id", "owner"}]
        return {attributes["run_id"]: attributes["owner"].split()[0] for attributes in begun}

    @contextmanager
    def opened(self, name: str) -> Iterator[optuna.Study]:
        """The study of this name."""
        storage = optuna.storages.RDBStorage(self.addresses["OPTUNA_STORAGE"])
        try:
            yield optuna.load_study(study_name=name, storage=storage)
        finally:
            storage.engine.dispose()
