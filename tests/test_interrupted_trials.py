"""Trials that are interrupted, with their sweep or by it: whoever takes them up goes on with their runs."""

import os
import signal
import time
from pathlib import Path

from src.utils.study.study import requeue_trial

import optuna
import pytest
import torch
from conftest import Lab, add_experiment, made_once, until
from mlflow.entities import Run
from optuna.trial import FrozenTrial
from sweeps import TOY, SweepLab, create_fresh_toys, finished, states  # noqa: F401  a fixture

PROGRAM = "src/model/model96/interrupted.py"
SETTINGS = """\
defaults:
  - /training
  - _self_

max_epochs: 4
kind: parts
"""
ONE = "hydra.sweeper.n_jobs=1"
GRID = ("kind=train,parts,plain", "folds=1,2", "trainer.accelerator=cpu", ONE)
# Kinds, folds and steps: in the second epoch; in the second part; in the second member of a group; before
# the second file was saved
PLACES = {"SIGTERM": "train-0-7 parts-1-3", "SIGKILL": "train-1-12 plain-0-4"}
STATUS = {"SIGTERM": [143, 75, 0], "SIGKILL": [-9, -9, 0]}


@pytest.fixture(scope="session")
def whole(shared: Path, clone: Lab) -> SweepLab:
    """A laboratory with a sweep that nothing has disturbed. To be read only."""

    def make(lab: Lab) -> None:
        clone.copied(lab.root)
        add_experiment(lab, PROGRAM, SETTINGS)
        lab.done(PROGRAM, "-m", *GRID, "hydra.sweeper.study_name=whole")

    return SweepLab(made_once(shared / "uninterrupted_trials", make).root)


@pytest.fixture(name="own")
def an_own_one(whole: SweepLab, tmp_path: Path) -> SweepLab:
    """A copy of the laboratory that the test may change."""
    return SweepLab(whole.copied(tmp_path / "own").root)


def results(lab: SweepLab, run: Run) -> dict[str, object]:
    """What a run and its members have measured, each value once, and their last weights."""
    query = f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
    members = lab.client.search_runs([run.info.experiment_id], query)
    found: dict[str, object] = {one.info.run_name: results(lab, one) for one in members}
    for name in run.data.metrics:
        if "loss" in name or name == "objective":
            found[name] = {*lab.history(run, name)}
    for file in (lab.artifacts(run) / "checkpoints").rglob("last.ckpt"):
        for name, tensor in torch.load(file, weights_only=True)["state_dict"].items():
            found[f"{file.parent.name} {name}"] = tensor.tolist()
    return found


def with_value(study: optuna.Study) -> dict[str, FrozenTrial]:
    return {str(one.params): one for one in study.trials if one.value is not None}


def run_of(lab: SweepLab, trial: FrozenTrial) -> Run:
    return lab.client.get_run(trial.user_attrs["run_id"])


@pytest.mark.parametrize("by", ["SIGTERM", "SIGKILL"])
def test_interrupted(own: SweepLab, by: str) -> None:
    """A trial that was interrupted with its sweep ends as if nothing had happened, in one run, which has its
    new number: metrics, weights, reports and values are the same. A worker asks to be started again."""
    codes = []
    for number in range(3):
        worker = {"JIKKEN_WORKER": "job"} if number else {}
        arguments = ("resume_study=latest", ONE) if number else GRID
        ended = own.run(PROGRAM, "-m", *arguments, STOP=PLACES[by], BY=by, **worker)
        assert "Traceback" not in ended.stderr, ended.stderr
        codes.append(ended.returncode)
    assert codes == STATUS[by], ended.stdout + ended.stderr

    before, study = own.study("whole"), own.study()
    assert states(study) == {"COMPLETE": 6, "FAIL": 2}
    assert "2 interrupted" in ended.stdout
    assert len(own.trial_runs(study)) == 6
    assert len({folder.parent for folder in own.trial_folders() if "-" in folder.parent.name}) == 2
    for settings, trial in with_value(study).items():
        reference, run = with_value(before)[settings], run_of(own, trial)
        assert trial.value == reference.value
        assert trial.intermediate_values == reference.intermediate_values
        assert results(own, run) == results(own, run_of(own, reference))
        assert (run.info.status, run.data.tags["optuna.state"]) == ("FINISHED", "complete")
        assert run.info.run_name.startswith(f"#{trial.number} ")
        history = trial.system_attrs.get("retry_history", [])
        assert run.data.tags["optuna.trial"] == str(trial.number)
        assert run.data.tags.get("optuna.earlier_trials", "").split() == list(map(str, history))


def test_what_cannot_be_resumed(own: SweepLab) -> None:
    """A trial whose run had finished has its value. One whose run can't be resumed has a new run, and says
    why; the old run is closed."""
    study = own.study()
    finished_, stopped = (study.trials[number] for number in (5, 4))
    own.client.set_terminated(stopped.user_attrs["run_id"], "KILLED")
    program = own.root / PROGRAM
    program.write_text(f"{program.read_text()}\n# edited\n")
    for trial in (finished_, stopped):
        requeue_trial(study, trial)
    said = own.sweep(PROGRAM, "resume_study=whole", ONE)

    study = own.study("whole")
    again, anew = study.trials[6:]
    assert (again.value, anew.value) == (finished_.value, stopped.value)
    assert again.user_attrs["run_id"] == finished_.user_attrs["run_id"]
    assert anew.user_attrs["run_id"] != stopped.user_attrs["run_id"]
    assert f"anew: {anew.user_attrs['not_resumed']}" in said
    assert "src/model/model96 has changed since" in anew.user_attrs["not_resumed"]
    old = run_of(own, stopped)
    assert old.info.status == "KILLED"
    assert old.data.tags["reason"].startswith("interrupted, and not resumed: ")
    assert run_of(own, anew).data.params["resume_run"] == "None"
    assert "resume_run" not in run_of(own, anew).data.tags["command"]


def test_stalled(fresh_toys: SweepLab) -> None:
    """A sweep that stalls past its heartbeat loses its trial to another process and goes on when it wakes; no
    value counts twice."""
    lab = fresh_toys
    for file, old, new in (
        ("process.py", "HEARTBEAT_LIMIT = 60", "HEARTBEAT_LIMIT = 8"),
        ("process.py", "HEARTBEAT_INTERVAL = 15", "HEARTBEAT_INTERVAL = 3"),
        ("runs/interrupted.py", "PATIENCE = 90.0", "PATIENCE = 2.0"),
    ):
        source = lab.root / "src/utils" / file
        assert old in source.read_text()
        source.write_text(source.read_text().replace(old, new))
    asked = ("x=interval(0,1)", "hydra.sweeper.n_trials=2", ONE, "hydra.sweeper.study_name=shared")
    one = lab.start_sweep(TOY, *asked, "seconds=5")
    until(lambda: lab.running_trials(1))
    time.sleep(0.5)  # it has written what it writes when it begins
    os.killpg(one.pid, signal.SIGSTOP)
    other = lab.start_sweep(TOY, *asked, "seconds=5")
    until(lambda: len(finished(lab.study())) == 2)
    os.killpg(one.pid, signal.SIGCONT)
    for process in (one, other):
        out, errors = process.communicate(timeout=120)
        assert process.returncode == 0, out + errors
        assert "Traceback" not in errors
        assert process is other or "taken over" in out + errors
    assert states(lab.study()) == {"FAIL": 1, "COMPLETE": 2}
