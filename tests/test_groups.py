"""Groups: one command, a run for each fold and seed, and one answer."""

import csv
import signal
import sys
import time
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pytest
from conftest import Lab, add_experiment, made_once, until
from folds import FOLDS, score, table
from laboratory import said
from mlflow.entities import Run
from sweeps import SweepLab, finished

PROGRAM = "src/model/model93/folds.py"
NAME = "model/model93"
SETTINGS = """\
defaults:
  - /model
  - _self_

shrink: 1.0
noise: 0.1
epochs: 3
case: ""
at: "1"
"""


@pytest.fixture(scope="session")
def grouped(shared: Path, clone: Lab) -> SweepLab:
    """A laboratory with a group of five folds and two seeds. To be read only."""

    def make(lab: Lab) -> None:
        clone.copied(lab.root)
        add_experiment(lab, PROGRAM, SETTINGS)
        lab.done(PROGRAM, "folds=5", "seeds=2", "note=both")

    return SweepLab(made_once(shared / "folds", make).root)


@pytest.fixture(name="own")
def an_own_one(grouped: SweepLab, tmp_path: Path) -> SweepLab:
    """A copy of the laboratory that the test may change."""
    return SweepLab(grouped.copied(tmp_path / "own").root)


def group(lab: Lab) -> Run:
    """The newest group."""
    return next(run for run in lab.runs(NAME) if "group.members" in run.data.tags)


def members(lab: Lab, run: Run) -> list[Run]:
    """The members of a group, by fold and seed."""
    found = [one for one in lab.runs(NAME) if one.data.tags.get("group.run_id") == run.info.run_id]
    return sorted(found, key=lambda one: (one.data.tags["group.fold"], one.data.tags["group.seed"]))


def fold_score(fold: int) -> float:
    """What the program should find for a fold, without noise."""
    samples, target, folds = table()
    x, y = samples[folds != fold], target[folds != fold]
    weights = np.linalg.solve(x.T @ x + np.eye(x.shape[1]) / 3, x.T @ y)
    return score(target[folds == fold], samples[folds == fold] @ weights)


def test_members(grouped: SweepLab) -> None:
    """Each fold with each seed is a nested run with plain settings of its own."""
    run = group(grouped)
    runs = members(grouped, run)
    assert [(one.data.params["fold"], one.data.params["seed"]) for one in runs] == [
        (str(fold), str(seed)) for fold in range(FOLDS) for seed in range(2)
    ]
    for one in runs:
        assert one.info.status == "FINISHED"
        assert one.data.tags["mlflow.parentRunId"] == run.info.run_id
        assert (one.data.params["folds"], one.data.params["seeds"]) == ("5", "1")
        assert one.data.tags["mlflow.note.content"] == "both"
    assert runs[5].info.run_name == "fold 2 seed 1"
    assert {"group.members": "10", "group.folds": "5", "group.seeds": "2"}.items() <= (
        run.data.tags.items()
    )


def test_answer(grouped: SweepLab) -> None:
    """The group has mean, sample standard deviation, curve, table and figures of its members."""
    run = group(grouped)
    runs = members(grouped, run)
    values = [one.data.metrics["val_rmse"] for one in runs]
    assert run.data.metrics["val_rmse"] == pytest.approx(fmean(values))
    assert run.data.metrics["val_rmse_sd"] == pytest.approx(stdev(values))
    assert run.data.tags["monitor"] == "val_rmse min"
    curve = grouped.history(run, "val_rmse")
    first = [grouped.history(one, "val_rmse")[0][1] for one in runs]
    assert [step for step, _ in curve] == [1, 2, 3]
    assert curve[0][1] == pytest.approx(fmean(first))
    folder = grouped.artifacts(run)
    with (folder / "members.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(float(row["val_rmse"]) for row in rows) == pytest.approx(sorted(values))
    assert {path.name for path in (folder / "figures").iterdir()} == {"members.png", "curves.png"}


def test_fold(own: SweepLab) -> None:
    """`run.fold` is the fold that main holds out: one run with fold=2 is the member of that fold."""
    own.done(PROGRAM, "folds=5", "fold=2", "noise=0")
    assert own.newest(NAME).data.metrics["val_rmse"] == pytest.approx(fold_score(2))
    assert "group.members" not in own.newest(NAME).data.tags
    own.done(PROGRAM, "noise=0")
    assert own.newest(NAME).data.metrics["val_rmse"] == pytest.approx(fold_score(0))


def test_failed_member(own: SweepLab) -> None:
    """A member that fails or dies costs the group its answer, and the others nothing; it is tried again."""
    for case, reason in (
        ("fail", "ValueError: no luck (src/model/model93/folds.py:"),
        ("die", "its process was killed by SIGKILL (out of memory?)"),
    ):
        done = own.run(PROGRAM, "folds=5", f"case={case}")
        run = group(own)
        error = done.stderr.splitlines()[-1]
        assert done.returncode == 2
        assert error.startswith(f"error: 1 of 5 members failed: fold 1: {reason}")
        assert error.endswith(
            f"resume_run={run.info.run_id[:8]} runs them again and keeps the others"
        )
        assert run.info.status == "FAILED"
        before = members(own, run)
        assert [one.info.status for one in before].count("FINISHED") == 4
        assert before[1].info.status == "FAILED"
        assert before[1].data.tags["reason"].startswith(reason)
        text = own.done(PROGRAM, f"resume_run={run.info.run_id}")
        assert "a group of 5 runs, 4 of them finished already" in text
        after = own.client.get_run(run.info.run_id)
        assert after.info.status == "FINISHED"
        assert not [one for one in members(own, run) if "reason" in one.data.tags]
        assert [one.info.run_id for one in members(own, run)] == [one.info.run_id for one in before]
        ends = [
            (one.info.end_time, two.info.end_time)
            for one, two in zip(before, members(own, run), strict=True)
        ]
        assert [first == second for first, second in ends].count(False) == 1
        assert after.data.metrics["val_rmse"] == pytest.approx(
            fmean(one.data.metrics["val_rmse"] for one in members(own, run))
        )


def test_nothing_left_to_run(own: SweepLab) -> None:
    """A group that was stopped after its last member only records its answer."""
    old = group(own)
    own.client.set_terminated(old.info.run_id, "KILLED")
    text = own.done(PROGRAM, f"resume_run={old.info.run_id}")
    assert "all 10 runs of the group are finished already" in text
    assert "at a time" not in text
    again = own.client.get_run(old.info.run_id)
    assert again.info.status == "FINISHED"
    assert again.data.metrics == old.data.metrics


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_stopped_group(own: SweepLab, number: signal.Signals) -> None:
    """A group that is stopped or killed leaves no process, and goes on with what is not finished."""
    process = own.start(sys.executable, own.root / PROGRAM, "folds=5", "case=hang", "at=2")
    old = group(own).info.run_id

    def hanging() -> list[Run]:
        """The member of fold 2, while it runs."""
        run = group(own)
        found = members(own, run) if run.info.run_id != old else []
        return [
            one for one in found if one.data.params.get("fold") == "2" and "pid" in one.data.tags
        ]

    (member,) = until(hanging)
    until(lambda: [one.info.status for one in members(own, group(own))].count("FINISHED") == 4)
    time.sleep(0.5)  # it has saved by now
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number), out + err
    assert "Traceback" not in err
    pid = Path("/proc") / member.data.tags["pid"]
    until(lambda: not pid.exists(), 30)
    run = group(own)
    own.done(PROGRAM, f"resume_run={run.info.run_id}")
    after = own.client.get_run(run.info.run_id)
    assert after.info.status == "FINISHED"
    assert len(members(own, run)) == 5
    assert after.data.metrics["val_rmse"] == pytest.approx(0.9934, abs=1e-3)


def test_refusals(own: SweepLab) -> None:
    """What makes no sense of folds and seeds is refused in one line, before anything is written."""
    files = own.files()
    finished_group = group(own).info.run_id[:8]
    for overrides, message in (
        (
            ["folds=5", "fold=5"],
            "fold=5 is refused: it should be less than folds=5: the first fold is 0",
        ),
        (["seeds=0"], "seeds=0 is refused: it should be greater than 0"),
        (
            [f"resume_run={finished_group}"],
            f"run {finished_group} is finished and stays as it is: ",
        ),
        (
            [f"resume_run={finished_group}", "shrink=2"],
            f"run {finished_group} was another training: shrink=2",
        ),
    ):
        done = own.run(PROGRAM, *overrides)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {message}")
        assert done.stderr.count("\n") == 1
    changed = {path for path, when in own.files().items() if files.get(path) != when}
    assert not [path for path in changed if path.parts[0] == "logs" and path.suffix != ".log"]


def test_no_folds(lab: Lab) -> None:
    """Folds are refused where main never asks which one to hold out: all runs would be the same."""
    done = lab.run("src/model/model01/digit_classifier.py", "folds=3")
    assert done.returncode == 2
    assert "src/model/model01 never reads run.fold" in done.stderr
    assert "seeds=3" in done.stderr


def test_search(own: SweepLab) -> None:
    """Each trial is a group: its value is the mean of its members, and it is pruned after one of them."""
    text = own.sweep(
        PROGRAM,
        *("folds=5", "noise=0", "shrink=0.1,1,10,1000,2000,3000", "hydra/sweeper/pruner=median"),
        *("hydra.sweeper.pruner.n_startup_trials=2", "hydra.sweeper.n_jobs=1"),
    )
    study = own.study()
    assert "pruned" in text
    assert len(finished(study)) == 6
    for trial in study.trials:
        run = own.client.get_run(trial.user_attrs["run_id"])
        runs = members(own, run)
        values = [one.data.metrics["val_rmse"] for one in runs]
        assert trial.intermediate_values[1] == pytest.approx(values[0])
        assert trial.intermediate_values[len(runs)] == pytest.approx(fmean(values))
        assert run.data.tags["optuna.trial"] == str(trial.number)
        if trial.state.name == "COMPLETE":
            assert trial.value == pytest.approx(fmean(values))
            assert len(runs) == FOLDS
        else:
            assert len(runs) < FOLDS
    assert study.trials[-1].state.name == "PRUNED"
    assert own.study_run(study).data.tags["monitor"] == "val_rmse min"


def test_search_of_seeds(own: SweepLab) -> None:
    """A search over seeds warns that the best one is the luckiest; several objectives have a mean each."""
    done = own.run(
        PROGRAM, "-m", "seed=range(3)", "case=two", "hydra.sweeper.direction=[minimize,minimize]"
    )
    assert done.returncode == 0, done.stderr
    assert "seed is searched: the best trial is then the luckiest one; seeds=N" in (
        done.stdout + done.stderr
    )
    own.sweep(
        PROGRAM, "folds=5", "case=two", "shrink=1,2", "hydra.sweeper.direction=[minimize,minimize]"
    )
    (first, second) = own.study().best_trials
    assert len(first.values) == len(second.values) == 2


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_other_launchers(own: SweepLab, launcher: str) -> None:
    """Members are launched by any of Hydra's launchers."""
    own.done(PROGRAM, "folds=5", "seeds=2", f"hydra/launcher={launcher}")
    newest = group(own)
    first = [run for run in own.runs(NAME) if "group.members" in run.data.tags][-1]
    assert newest.info.run_id != first.info.run_id
    assert newest.data.metrics == first.data.metrics


def test_warm_start(own: SweepLab) -> None:
    """A warm start of a group gives each member the weights of the same fold and seed."""
    old = group(own)
    own.done(PROGRAM, f"warm_start={old.info.run_id}")
    new = group(own)
    assert new.data.tags["warm_start_from"] == old.info.run_id
    for before, after in zip(members(own, old), members(own, new), strict=True):
        assert after.data.tags["warm_start_from"] == before.info.run_id
        assert after.data.params["fold"] == before.data.params["fold"]


def test_rerun_of_a_member(grouped: SweepLab) -> None:
    """A member is repeated alone, bit for bit."""
    member = members(grouped, group(grouped))[3]
    assert "verdict: identical" in said(grouped, "rerun", member.info.run_id)
