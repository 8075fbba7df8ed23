"""Trials that are interrupted, with their sweep or by it: whoever takes them up goes on with their runs."""

import subprocess
from pathlib import Path

import optuna
import pytest
import torch
from conftest import Lab, add_experiment, made_once
from mlflow.entities import Run
from sweeps import SweepLab, states

PROGRAM = "src/model/model96/interrupted.py"
SETTINGS = """\
defaults:
  - /training
  - _self_

max_epochs: 4
kind: lightning
rate: 0.1
"""
ALONE = ("trainer.accelerator=cpu", "trainer.log_every_n_steps=1", "hydra.sweeper.n_jobs=1")
KINDS = "kind=lightning,train,parts,plain"
# In the second epoch, in the third, in the second part, and before the second file was saved
PLACES = "lightning-0-7 train-0-12 parts-1-3 plain-0-4"
AGAIN = ("resume_study=latest", "hydra.sweeper.n_jobs=1")


@pytest.fixture(scope="session")
def whole(shared: Path, clone: Lab) -> SweepLab:
    """A laboratory with a sweep of each kind that nothing has disturbed. To be read only."""

    def make(lab: Lab) -> None:
        clone.copied(lab.root)
        add_experiment(lab, PROGRAM, SETTINGS)
        lab.done(PROGRAM, "-m", KINDS, *ALONE, "hydra.sweeper.study_name=kinds")
        lab.done(
            PROGRAM, "-m", "folds=2", "rate=0.1,0.2", *ALONE, "hydra.sweeper.study_name=groups"
        )

    return SweepLab(made_once(shared / "uninterrupted_trials", make).root)


@pytest.fixture(name="own")
def an_own_one(whole: SweepLab, tmp_path: Path) -> SweepLab:
    """A copy of the laboratory that the test may change."""
    return SweepLab(whole.copied(tmp_path / "own").root)


def results(lab: Lab, run: Run) -> dict[str, object]:
    """What a run has measured, each value once, and its last weights."""
    names = [name for name in run.data.metrics if "loss" in name or name == "objective"]
    weights = {
        f"{file.parent.name} {name}": tensor.tolist()
        for file in (lab.artifacts(run) / "checkpoints").rglob("last.ckpt")
        for name, tensor in torch.load(file, weights_only=True)["state_dict"].items()
    }
    return {name: {*lab.history(run, name)} for name in names} | weights


def by_settings(study: optuna.Study) -> dict[str, optuna.trial.FrozenTrial]:
    """The trials that have a value."""
    return {str(one.params): one for one in study.trials if one.value is not None}


@pytest.mark.parametrize("by", ["SIGTERM", "SIGKILL"])
def test_kinds(own: SweepLab, by: str) -> None:
    """A trial that was interrupted with its sweep ends as if nothing had happened, in one run: metrics,
    weights, reports and value are the same, of whatever kind it is."""
    process: subprocess.CompletedProcess[str] | None = None
    codes = []
    while process is None or (process.returncode and len(codes) < 6):
        arguments = AGAIN if codes else (KINDS, *ALONE)
        process = own.run(PROGRAM, "-m", *arguments, STOP=PLACES, BY=by)
        codes.append(process.returncode)
        assert "Traceback" not in process.stderr, process.stderr
    assert codes == [{"SIGTERM": 143, "SIGKILL": -9}[by]] * 4 + [0], process.stdout + process.stderr

    before, study = own.study("kinds"), own.study()
    assert states(study) == {"COMPLETE": 4, "FAIL": 4}
    runs = own.trial_runs(study)
    assert len(runs) == 4
    old = {run.info.run_id: run for run in own.trial_runs(before)}
    new = {run.info.run_id: run for run in runs}
    for settings, trial in by_settings(study).items():
        reference, run = by_settings(before)[settings], new[trial.user_attrs["run_id"]]
        assert trial.value == reference.value
        assert trial.intermediate_values == reference.intermediate_values
        assert results(own, run) == results(own, old[reference.user_attrs["run_id"]])
        assert run.info.status == "FINISHED"
        assert run.info.run_name.startswith(f"#{trial.number} ")
        tags = {name: run.data.tags.get(f"optuna.{name}") for name in ("trial", "earlier_trials")}
        first = trial.system_attrs["retry_history"][0]
        assert tags == {"trial": str(trial.number), "earlier_trials": str(first)}
        assert study.trials[first].user_attrs["run_id"] == run.info.run_id
