"""Studies that travel: what is stored of each trial arrives once, whoever went on meanwhile."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from src.utils.process import this_process
from src.utils.study.storage import open_storage
from src.utils.study.study import PROCESS, requeue_lost_trials, requeue_trial
from src.utils.transfer.merged_study import merge_study
from src.utils.transfer.study_files import (
    read_study,
    read_study_file,
    study_file,
    write_study,
    write_study_file,
)

import optuna
import pytest
from optuna.storages._rdb.models import TrialHeartbeatModel
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import update

pytestmark = [
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
    pytest.mark.filterwarnings("ignore:Heartbeat of storage"),  # these trials are not optimized
]

NAME = "11-23-lr+hidden/x"
SPACE = {"experiment": "model/model90", "question": {"x": "FloatDistribution"}, "grid": False}
PAGE = "http://127.0.0.1:5000/#/experiments/{}/runs/{}?workflowType=machine_learning"


class Side:
    """A storage with the study, in which trials are run."""

    def __init__(self, file: Path) -> None:
        self.url = f"sqlite:///{file}"
        self.storage = open_storage(self.url)

    def begin(self) -> None:
        study = optuna.create_study(storage=self.storage, study_name=NAME)
        for key, value in {**SPACE, "n_trials": 4}.items():
            study.set_user_attr(key, value)

    @property
    def study(self) -> optuna.Study:
        sampler = optuna.samplers.RandomSampler()
        return optuna.load_study(study_name=NAME, storage=self.storage, sampler=sampler)

    def start(self, run_id: str) -> Trial:
        trial = self.study.ask()
        trial.suggest_float("x", 0, 1)
        trial.report(0.5, step=0)
        trial.set_user_attr("run_id", run_id)
        return trial

    def run(self, run_id: str, value: float | None = 1.0) -> Trial:
        trial = self.start(run_id)
        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        self.study.tell(trial, value, state)
        return trial

    def merge(self, other: "Side") -> bool:
        return merge_study(NAME, other.storage, self.storage)  # type: ignore[arg-type]

    def runs(self) -> dict[str, FrozenTrial]:
        """By run; one that waits to go on with the run of another is `-`."""
        waits = TrialState.WAITING
        return {
            "-" if one.state is waits else one.user_attrs.get("run_id", "-"): one
            for one in self.study.trials
        }

    def states(self) -> dict[str, str]:
        return {run_id: one.state.name for run_id, one in self.runs().items()}


@pytest.fixture
def side(tmp_path: Path) -> Callable[[str], Side]:
    return lambda name: Side(tmp_path / f"{name}.db")


def stored(trial: FrozenTrial) -> tuple[object, ...]:
    """All that is stored of a trial."""
    return (
        *(trial.number, trial.state, trial.values, trial.params, trial.distributions),
        *(trial.user_attrs, trial.system_attrs, trial.intermediate_values),
        *(trial.datetime_start, trial.datetime_complete),
    )


def test_a_study_in_a_folder(side: Callable[[str], Side], tmp_path: Path) -> None:
    """A study goes through one file of a folder into a storage that has other studies, with all that is
    stored of it: its numbers, values, times, attributes and notes, whose links lead to pages there. What
    is there already is not written again."""
    here, there = side("here"), side("there")
    optuna.create_study(storage=there.storage, study_name="other").add_trial(
        optuna.create_trial(value=0)
    )
    here.begin()
    trial = here.run("a")
    here.run("b", None)
    here.study.set_metric_names(["val_loss"])
    notes = {f"dashboard:{trial._trial_id}:note_ver": 1, "dashboard:note_ver": 2}
    notes |= {"dashboard:note_str:0": PAGE.format(3, "a")}
    for key, value in notes.items():
        here.storage.set_study_system_attr(here.study._study_id, key, value)

    folder, draft = tmp_path / "studies", tmp_path / "draft.db"
    assert read_study(here.url, NAME, draft)
    assert not read_study(here.url, "missing", tmp_path / "none.db")
    assert write_study_file(folder, NAME, draft)
    assert not write_study_file(folder, NAME, draft)
    assert [file.name for file in folder.iterdir()] == [study_file(folder, NAME).name]
    assert read_study_file(folder, NAME, tmp_path / "copy.db")
    assert write_study(
        there.url, NAME, tmp_path / "copy.db", lambda name: {"model/model90": "7"}[name]
    )
    assert not write_study(there.url, NAME, tmp_path / "copy.db")

    assert [*map(stored, there.study.trials)] == [*map(stored, here.study.trials)]
    assert there.study.user_attrs == here.study.user_attrs
    assert there.study.metric_names == ["val_loss"]
    system = there.storage.get_study_system_attrs(there.study._study_id)
    assert system["dashboard:note_str:0"] == PAGE.format(7, "a")
    assert system[f"dashboard:{there.runs()['a']._trial_id}:note_ver"] == 1


def test_both_sides_went_on(side: Callable[[str], Side]) -> None:
    """Both sides have all trials in the end, each once; retries name the same trial by its number there;
    of two numbers of trials that were asked for, the greater counts."""
    one, other = side("one"), side("other")
    one.begin()
    one.run("a")
    other.merge(one)
    one.run("b")
    lost = other.run("c", None)
    requeue_trial(other.study, other.study.trials[lost.number])
    other.study.set_user_attr("n_trials", 9)
    assert one.merge(other)
    assert other.merge(one)
    assert not one.merge(other)
    assert not other.merge(one)
    assert (
        one.states()
        == other.states()
        == {"a": "COMPLETE", "b": "COMPLETE", "c": "FAIL", "-": "WAITING"}
    )
    for side_ in (one, other):
        runs = side_.runs()
        assert runs["-"].system_attrs["retry_history"] == [runs["c"].number]
        assert runs["-"].params == runs["c"].params
        assert side_.study.user_attrs["n_trials"] == 9
    again = one.study.ask()
    again.set_user_attr("run_id", "d")
    one.study.tell(again, 0.0)
    assert other.merge(one)
    assert other.states() == {"a": "COMPLETE", "b": "COMPLETE", "c": "FAIL", "d": "COMPLETE"}


def test_a_trial_that_runs_elsewhere(side: Callable[[str], Side]) -> None:
    """It arrives as running, and a later transfer ends it. Without one, the study takes it for lost and
    queues it again; its value counts even then. What runs here is never ended from elsewhere."""
    here, there = side("here"), side("there")
    here.begin()
    trials = {name: here.start(name) for name in ("a", "b")}
    assert there.merge(here)
    assert there.states() == {"a": "RUNNING", "b": "RUNNING"}
    here.study.tell(trials["a"], 0.25)
    assert there.merge(here)
    assert stored(there.runs()["a"]) == stored(here.runs()["a"])

    assert not requeue_lost_trials(there.study)  # its heartbeat is fresh
    with there.storage.engine.begin() as connection:  # type: ignore[attr-defined]
        old = datetime.now() - timedelta(hours=25)
        connection.execute(update(TrialHeartbeatModel).values(heartbeat=old))
    assert [one.user_attrs["run_id"] for one in requeue_lost_trials(there.study)] == ["b"]
    assert there.states() == {"a": "COMPLETE", "b": "FAIL", "-": "WAITING"}
    trials["b"].set_user_attr(PROCESS, this_process())
    assert here.merge(there)
    assert here.states() == {"a": "COMPLETE", "b": "RUNNING", "-": "WAITING"}
    here.study.tell(trials["b"], 0.75)
    assert there.merge(here)
    assert there.runs()["b"].values == [0.75]
    assert there.runs()["b"].datetime_complete == here.runs()["b"].datetime_complete


def test_another_question(side: Callable[[str], Side], caplog: pytest.LogCaptureFixture) -> None:
    """Two studies that share nothing but their name are left as they are, and a line says so."""
    here, there = side("here"), side("there")
    here.begin()
    here.run("a")
    there.begin()
    there.study.set_user_attr("question", {"y": "IntDistribution"})
    assert not there.merge(here)
    assert not there.study.trials
    assert f"{NAME} is the name of another study there" in caplog.text
