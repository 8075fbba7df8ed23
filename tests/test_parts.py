"""Parts of a run: several fits in one run, each of which is resumed, logged and pruned by itself."""

import signal
from pathlib import Path

from src.utils.cores import count_cores

import pytest
import torch
from conftest import Lab, add_experiment, made_once
from laboratory import said
from mlflow.entities import Run
from sweeps import SweepLab, states

LIGHTNING, PLAIN = "src/model/model93/parts.py", "src/model/model94/plain_parts.py"
QUICK = ("trainer.accelerator=cpu", "trainer.log_every_n_steps=1")
ONE_PROCESS = ("hydra/sweeper=basic", "hydra/launcher=basic")
SETTINGS = {
    "model93": """\
defaults:
  - /training
  - _self_

monitor: val_loss
mode: min
max_epochs: 4

kind: fixed
rate: 0.1
""",
    "model94": """\
defaults:
  - /model
  - _self_

kind: descent
rate: 0.1
""",
}
LOAD = """
    from src.utils.tracking import load_model

    print(float(load_model({run!r}, checkpoint="fold1/last").network[0].weight.double().sum()))
"""


@pytest.fixture(scope="session")
def whole(shared: Path, clone: Lab) -> SweepLab:
    """A laboratory with a run of each kind that nothing has disturbed. To be read only."""

    def make(lab: Lab) -> None:
        clone.copied(lab.root)
        for name, program in (("model93", LIGHTNING), ("model94", PLAIN)):
            add_experiment(lab, program, SETTINGS[name])
        kinds = "kind=fixed,early,steps,mistakes"
        lab.done(LIGHTNING, "-m", *ONE_PROCESS, *QUICK, kinds)
        lab.done(PLAIN, "-m", *ONE_PROCESS, "kind=descent,boosting")

    return SweepLab(made_once(shared / "parts", make).root)


@pytest.fixture(name="own")
def an_own_one(whole: SweepLab, tmp_path: Path) -> SweepLab:
    """A copy of the laboratory that the test may change."""
    return SweepLab(whole.copied(tmp_path / "own").root)


def run_of(lab: Lab, kind: str) -> Run:
    """The newest run of a kind."""
    runs = [*lab.runs("model/model93"), *lab.runs("model/model94")]
    return next(run for run in runs if run.data.params["kind"] == kind)


def files(lab: Lab, run: Run, folder: str) -> set[str]:
    found = lab.artifacts(run) / folder
    return {str(file.relative_to(found)) for file in found.rglob("*") if file.is_file()}


def results(lab: Lab, run: Run) -> dict[str, object]:
    """What a run has measured and tagged, and its last weights."""
    names = [name for name in run.data.metrics if "loss" in name or name == "objective"]
    tags = {name: value for name, value in run.data.tags.items() if "fold" in name}
    weights = {
        f"{file.parent.name} {name}": tensor.tolist()
        for file in (lab.artifacts(run) / "checkpoints").rglob("last.ckpt")
        for name, tensor in torch.load(file, weights_only=True)["state_dict"].items()
    }
    return {name: {*lab.history(run, name)} for name in names} | tags | weights


@pytest.mark.parametrize(
    ("kind", "at", "by"),
    [
        ("fixed", "1 7", "SIGKILL"),  # within an epoch of the second part
        ("early", "1 0", "SIGKILL"),  # before its first checkpoint
        ("steps", "2 3", "SIGTERM"),
        ("descent", "1 5", "SIGKILL"),
        ("boosting", "1 5", "SIGKILL"),
    ],
)
def test_resuming(whole: SweepLab, own: SweepLab, kind: str, at: str, by: str) -> None:
    """A loop that was stopped keeps its finished parts, and ends as if it had not been stopped."""
    program, quick = (PLAIN, ()) if kind in ("descent", "boosting") else (LIGHTNING, QUICK)
    ended = own.run(program, *quick, f"kind={kind}", KILL=at, BY=by)
    assert ended.returncode == {"SIGKILL": -signal.SIGKILL, "SIGTERM": 143}[by], ended.stderr
    stopped = run_of(own, kind)
    assert stopped.info.status == {"SIGKILL": "RUNNING", "SIGTERM": "KILLED"}[by]
    output = own.done(program, f"resume_run={stopped.info.run_id}")
    run = run_of(own, kind)
    assert run.info.run_id == stopped.info.run_id
    assert results(own, run) == results(whole, run_of(whole, kind))
    assert "fold0  epoch" not in output
    assert (program == PLAIN) or "fold0 had ended at step" in output


def test_where_things_are(whole: SweepLab) -> None:
    """Checkpoints, files, figures and metrics of a part bear its name; its monitor is not the run's."""
    run, plain = run_of(whole, "fixed"), run_of(whole, "descent")
    checkpoints = {f"fold{n}/{name}.ckpt" for n in range(3) for name in ("best", "last")}
    assert files(whole, run, "checkpoints") == checkpoints
    assert files(whole, plain, "model") == {f"fold{n}/state.npz" for n in range(3)}
    assert files(whole, plain, "figures") == {f"fold{n}/line.png" for n in range(3)}
    assert run.data.tags["monitor"] == "objective min"
    assert {"fold0/val_loss", "fold2/lr", "objective"} <= run.data.metrics.keys()
    shown = said(whole, "show", run.info.run_id)
    assert "checkpoints/fold1/best.ckpt" in shown
    assert "fold1/val_loss" in shown
    assert "fold1/epoch" not in shown


def test_load_model(whole: SweepLab) -> None:
    """The model of a part is loaded by the part's name."""
    run = run_of(whole, "fixed")
    out, _ = whole.python(LOAD.format(run=run.info.run_id))
    assert out.strip() == run.data.tags["fold1.weights"]


def test_threads(whole: SweepLab, tmp_path: Path) -> None:
    """The members of a group in a trial have the threads of their trial, in OpenMP's libraries too."""
    own = SweepLab(whole.copied(tmp_path / "own").root)
    cores = count_cores()
    arguments = ("kind=boosting", "seeds=2", "rate=0.1,0.2", f"hydra.sweeper.n_jobs={cores}")
    own.sweep(PLAIN, *arguments, OMP_NUM_THREADS="")
    members = [run for run in own.runs("model/model94") if "group.seed" in run.data.tags]
    assert [run.data.tags["threads"] for run in members] == ["1"] * 4


def test_mistakes(whole: SweepLab) -> None:
    """A name that is not plain or not new, and a second training without a part, are one line each."""
    refused = run_of(whole, "mistakes").data.tags["refused"].splitlines()
    assert refused[0].startswith("run.part('../fold0'): the name should be letters")
    assert refused[1].startswith("run.part('fold0') was made already")
    assert refused[2].startswith("a run holds one training")
    assert 'run.part("fold0")' in refused[2]


def test_rerun(own: SweepLab) -> None:
    """`lab rerun` compares the weights of all parts."""
    own.done(LIGHTNING, *QUICK, "max_epochs=1")
    output = said(own, "rerun", own.newest("model/model93").info.run_id)
    assert "weights: bit-identical" in output


def test_pruning(own: SweepLab) -> None:
    """A part's reports begin at the same step in each trial, though early stopping ends some sooner."""
    own.sweep(LIGHTNING, *QUICK, "kind=early", "rate=0.1,0.2,0.00001", "hydra.sweeper.n_jobs=1")
    study = own.study()
    assert states(study) == {"COMPLETE": 3}  # a grid has no pruner
    steps = [{*trial.intermediate_values} for trial in study.trials]
    assert all({1, 5, 9} <= each for each in steps)
    assert any(4 not in each for each in steps)


def test_more_epochs_and_warm_start(own: SweepLab) -> None:
    """With more epochs, each part goes on from its end; a warm start begins with the weights of the part."""
    old = run_of(own, "fixed").info.run_id
    output = own.done(LIGHTNING, f"resume_run={old}", "max_epochs=5")
    assert [line[:17] for line in output.splitlines() if line.startswith("fold")] == [
        f"fold{n}  epoch 5/5 " for n in range(3)
    ]
    own.done(LIGHTNING, *QUICK, f"warm_start={old}", "max_epochs=1", "rate=1e-30")
    new = own.newest("model/model93").data.tags
    assert new["fold1.weights"] == own.client.get_run(old).data.tags["fold1.weights"]
