"""Models without torch and Lightning: tracked, searched, resumed, repeated and loaded like any other."""

import json
import signal
import sys
from pathlib import Path

from src.utils.cores import count_cores

import numpy as np
import pytest
from conftest import Lab, add_experiment, made_once
from laboratory import refused, said, typed
from mlflow.entities import Run
from sweeps import SweepLab, finished, states

PROGRAM = "src/model/model92/logistic.py"
NAME = "model/model92"
SETTINGS = """\
defaults:
  - /model
  - _self_

rate: 0.5
epochs: 6
case: ""
"""
SLOW = {"torch", "pytorch_lightning", "lightning_fabric"}
LOAD = """
    from src.utils.tracking import load_model

    print(*load_model({run!r}).weights)
"""


def add_logistic(lab: Lab) -> None:
    add_experiment(lab, PROGRAM, SETTINGS)


@pytest.fixture(scope="session")
def plain(shared: Path, clone: Lab) -> SweepLab:
    """A laboratory with a finished run of the logistic regression. To be read only."""

    def make(lab: Lab) -> None:
        clone.copied(lab.root)
        add_logistic(lab)
        lab.done(PROGRAM)

    return SweepLab(made_once(shared / "plain", make).root)


@pytest.fixture(name="own")
def an_own_one(plain: SweepLab, tmp_path: Path) -> SweepLab:
    """A copy of the laboratory that the test may change."""
    return SweepLab(plain.copied(tmp_path / "own").root)


def weights(lab: Lab, run: Run) -> list[float]:
    return list(np.load(lab.artifacts(run) / "model/state.npz")["weights"])


def test_imports(own: SweepLab) -> None:
    """A run imports neither torch nor Lightning, and nor does its question."""
    assert not SLOW & own.question(own.root / PROGRAM).imported
    assert not SLOW & own.question(own.root / PROGRAM, "--help").imported


def test_seed(plain: SweepLab, own: SweepLab) -> None:
    """NumPy's random numbers follow from the setting `seed`."""
    own.done(PROGRAM)
    same = own.newest(NAME)
    own.done(PROGRAM, "seed=1")
    assert weights(own, same) == weights(plain, plain.newest(NAME))
    assert weights(own, own.newest(NAME)) != weights(own, same)


def test_settings(plain: SweepLab) -> None:
    """What only a Lightning training has is refused, and it is said to what it belongs."""
    for override in ("compile=true", "trainer.precision=bf16-mixed", "+checkpoint_every=3"):
        key = override.partition("=")[0].lstrip("+")
        done = plain.run(PROGRAM, override)
        assert done.returncode == 2
        assert done.stderr.startswith(
            f"error: {key} is not a setting here: it belongs to Lightning"
        )
        assert done.stderr.count("\n") == 1
    done = plain.run(PROGRAM, "max_epochs=3")
    assert done.stderr == "error: max_epochs is not a setting: did you mean epochs?\n"


@pytest.mark.parametrize(
    ("case", "message"),
    {
        "name": "run.save('../state.npz'): the name should be that of a file, without ..",
        "nothing": "run.save('state.npz'): no file was written to the path given",
        "mode": "run.objective('val_loss', 'best'): the mode should be min or max",
    }.items(),
)
def test_mistakes(own: SweepLab, case: str, message: str) -> None:
    """What `main` does wrong with its run is one line."""
    done = own.run(PROGRAM, f"case={case}")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"error: {message}"
    assert own.newest(NAME).info.status == "FAILED"


def test_leaderboard(own: SweepLab) -> None:
    """Runs are sorted by the objective that they name: the lower, the better."""
    better = own.newest(NAME)
    own.done(PROGRAM, "rate=0.01")
    worse = own.newest(NAME)
    assert better.data.tags["monitor"] == "val_loss min"
    assert better.data.metrics["val_loss"] < worse.data.metrics["val_loss"]
    table = said(own, "runs", "--experiment", "model92", "--sort", "val_loss")
    assert table.index(better.info.run_id[:8]) < table.index(worse.info.run_id[:8])
    assert better.info.run_id in said(own, "best", "model92")
    shown = said(own, "show", better.info.run_id)
    assert "model/state.npz" in shown
    assert "load_model" in shown
    assert "export" not in shown


def test_monitor(own: SweepLab) -> None:
    """Without `run.objective`, the settings name the metric; without both it is what `main` returned."""
    own.done(PROGRAM, "case=silent", "monitor=val_loss", "mode=min")
    run = own.newest(NAME)
    assert run.data.tags["monitor"] == "val_loss min"
    assert "objective" not in run.data.metrics
    own.done(PROGRAM, "case=silent")
    run = own.newest(NAME)
    assert run.data.tags["monitor"] == "objective min"
    assert run.data.metrics["objective"] == run.data.metrics["val_loss"]


def test_load_model(own: SweepLab) -> None:
    """`load_model` calls `load` of the source that is kept with the run."""
    run = own.newest(NAME)
    (own.root / PROGRAM).unlink()
    out, warned = own.python(LOAD.format(run=run.info.run_id))
    assert [float(number) for number in out.split()] == weights(own, run)
    assert "src/model/model92 has changed since" in warned
    assert "holds a Logistic" in refused(own, "export", run.info.run_id, own.root / "new")


def test_no_load(own: SweepLab) -> None:
    """Files without a `load` that reads them are one line, and a summary offers no reload."""
    program = own.root / PROGRAM
    program.write_text(program.read_text().replace("load(", "read("))
    assert "load_model" not in own.done(PROGRAM)
    out, _ = own.python("""
        from src.utils.errors import UserError
        from src.utils.tracking import load_model
        try:
            load_model("latest")
        except UserError as error:
            print(error)
    """)
    assert "has saved files in model/, and logistic.py defines no load(folder: Path)" in out


def test_rerun(own: SweepLab) -> None:
    """`lab rerun` repeats it bit for bit, its saved files among what it compares."""
    output = said(own, "rerun", own.newest(NAME).info.run_id)
    assert "weights: bit-identical" in output
    assert "verdict: identical" in output


def test_search(own: SweepLab) -> None:
    """Trials that report bad values are pruned; none imports torch or Lightning."""
    rates = "rate=0.5,0.4,0.3,0.2,0.0001,0.0002"
    own.sweep(PROGRAM, rates, "hydra/sweeper/pruner=median", "hydra.sweeper.n_jobs=1")
    study = own.study()
    assert states(study) == {"COMPLETE": 4, "PRUNED": 2}
    assert study.metric_names == ["val_loss"]
    assert len(finished(study)[0].intermediate_values) == 6
    runs = own.trial_runs(study)
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.tags["imported"] for run in runs} == {""}
    assert own.study_run(study).data.tags["monitor"] == "val_loss min"


def test_several_objectives(own: SweepLab) -> None:
    """With several objectives nothing is pruned, and the mode of one metric contradicts no direction."""
    directions = "hydra.sweeper.direction=[maximize,minimize]"
    own.sweep(PROGRAM, "rate=0.5,0.4", "case=two", directions)
    assert states(own.study()) == {"COMPLETE": 2}


def test_threads(own: SweepLab) -> None:
    """A trial gives NumPy its share of the cores; its run records how many threads that are."""
    command = ["env", "-u", "OMP_NUM_THREADS", sys.executable, own.root / PROGRAM, "-m"]
    process = own.start(*command, "rate=0.5,0.4", "hydra.sweeper.n_jobs=2")
    process.communicate(timeout=240)
    assert process.returncode == 0
    for run in own.trial_runs(own.study()):
        metadata = json.loads((own.artifacts(run) / "provenance/metadata.json").read_text())
        share = max(1, count_cores() // 2)
        assert metadata["hardware"]["threads"] == int(run.data.tags["threads"]) == share


def test_direction(own: SweepLab) -> None:
    """A search in the other direction than the objective ends with one line."""
    output = own.sweep(PROGRAM, "rate=0.5,0.4", "hydra.sweeper.direction=maximize", code=2)
    assert "hydra.sweeper.direction=maximize contradicts mode=min" in output


def test_resuming(plain: SweepLab, own: SweepLab) -> None:
    """A killed run goes on from what it saved, and ends as if it had not been killed. Why it was ended is
    told until then."""
    whole = plain.newest(NAME)
    assert own.run(PROGRAM, KILL="4").returncode == -signal.SIGKILL
    typed(own, "doctor", "--fix")
    killed = own.newest(NAME)
    assert killed.data.tags["reason"] == "its process is gone"
    said(own, "resume", killed.info.run_id)
    run = own.newest(NAME)
    assert "reason" not in run.data.tags
    assert run.info.run_id == killed.info.run_id
    assert run.data.tags["start"] == "4"
    assert weights(own, run) == weights(plain, whole)
    assert own.history(run, "val_loss") == plain.history(whole, "val_loss")
    done = own.run(PROGRAM, f"resume_run={run.info.run_id}", "epochs=9")
    assert "epochs=9 (it had 6)" in done.stderr
    done = own.run(PROGRAM, f"resume_run={run.info.run_id}")
    assert "is finished and stays as it is: warm_start=" in done.stderr


def test_nothing_saved(own: SweepLab) -> None:
    """A run that has saved nothing starts again in the same run; a warm start from it is refused."""
    assert own.run(PROGRAM, KILL="0").returncode == -signal.SIGKILL
    killed = own.newest(NAME).info.run_id
    done = own.run(PROGRAM, f"warm_start={killed}")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: run {killed[:8]} has saved nothing")
    output = own.done(PROGRAM, f"resume_run={killed}")
    assert "had saved nothing when it was stopped: starting from the beginning" in output
    assert own.newest(NAME).info.run_id == killed


def test_warm_start(own: SweepLab) -> None:
    """A new run begins with the weights of another."""
    old = own.newest(NAME)
    own.done(PROGRAM, f"warm_start={old.info.run_id}", "epochs=1")
    run = own.newest(NAME)
    assert run.data.tags["warm_start_from"] == old.info.run_id
    assert run.data.metrics["val_loss"] < old.data.metrics["val_loss"]


def test_other_tier(own: SweepLab) -> None:
    """A class and a config.yaml of different tiers are one line that says what fits."""
    config = own.root / "config" / NAME / "config.yaml"
    config.write_text(SETTINGS.replace("/model", "/training"))
    done = own.run(PROGRAM)
    assert done.returncode == 2
    assert "trainer is not a setting here: it belongs to Lightning trainings" in done.stderr
    config.write_text(SETTINGS)
    program = own.root / PROGRAM
    code = program.read_text()
    program.write_text(code.replace("ModelSettings", "TrainingSettings"))
    done = own.run(PROGRAM)
    assert done.returncode == 2
    assert (
        "trainer has no value: give it one in config.yaml, or let it begin with /training"
        in done.stderr
    )
    assert done.stderr.count("\n") == 1
