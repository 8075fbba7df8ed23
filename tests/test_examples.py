"""Lightning's own examples and a fine-tuning of Hugging Face, as experiments: what «any model» means.

Their training logic is unchanged (`tests/examples`). Each is trained, killed within an epoch and resumed; the
searches, reruns, exports and so on are those that are specific to an example.
"""

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, Lab, made_once
from laboratory import refused, said
from mlflow.entities import Run
from sweeps import SweepLab, states

EXAMPLES = ROOT / "tests" / "examples"
QUICK = ("trainer.accelerator=cpu", "trainer.log_every_n_steps=2", "checkpoint_every=3")
MEDIAN = (
    "hydra/sweeper/pruner=median",
    "hydra.sweeper.pruner.n_startup_trials=1",
    "hydra.sweeper.n_jobs=1",
)
KILLS = {  # an optimizer step within the second epoch, or the second fold
    "autoencoder": 9,
    "finetuning": 13,
    "gan": 22,
    "huggingface": 11,
    "kfold": 10,
    "segmentation": 13,
    "transformer": 15,
}
KILLING = '''
import os
import signal


class Killed(pl.Callback):
    """Kills the process before the step that KILL names."""

    def on_train_batch_start(self, trainer, *_):
        if os.environ.get("KILL") == str(trainer.global_step):
            os.kill(os.getpid(), signal.SIGKILL)


def fit_and_kill(trainer, *arguments, fit=pl.Trainer.fit, **named):
    trainer.callbacks.append(Killed())
    fit(trainer, *arguments, **named)


pl.Trainer.fit = fit_and_kill

if __name__'''
NOT_COMPARED = ("system/", "epoch_seconds", "samples_per_second", "val_loss_step")
RUN_ALL = """
    import os, runpy, sys

    for name in {names!r}:  # each in a fork of one process that has the imports
        import src.utils.experiment, src.utils.training, src.utils.runs.execute, torchmetrics
        pid = os.fork()
        if pid == 0:
            sys.argv = [f"{root}/src/model/{{name}}/{{name}}.py", *{arguments!r}]
            runpy.run_path(sys.argv[0], run_name="__main__")
            sys.stdout.flush()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0, name
"""


@pytest.fixture(scope="session")
def trained(shared: Path, clone: Lab) -> SweepLab:
    """A laboratory in which each example was trained once. To be read only."""

    def make(lab: Lab) -> None:
        clone.copied(lab.root)
        for program in EXAMPLES.glob("*.py"):
            source, config = (
                lab.root / side / "model" / program.stem for side in ("src", "config")
            )
            source.mkdir()
            config.mkdir()
            code = program.read_text().replace("\nif __name__", KILLING)
            (source / program.name).write_text(code)
            shutil.copy(program.with_suffix(".yaml"), config / "config.yaml")
        lab.git("add", ".")
        lab.git("commit", "--quiet", "--message=Examples")
        names = sorted(program.stem for program in EXAMPLES.glob("*.py"))
        lab.python(RUN_ALL.format(root=lab.root, names=names, arguments=QUICK), OMP_NUM_THREADS="1")

    return SweepLab(made_once(shared / "examples", make).root)


@pytest.fixture(name="own")
def an_own_one(trained: SweepLab, tmp_path: Path) -> SweepLab:
    """A copy of the laboratory that the test may change."""
    return SweepLab(trained.copied(tmp_path / "own").root)


def program(name: str) -> str:
    return f"src/model/{name}/{name}.py"


def weights(lab: Lab, run: Run) -> dict[str, Any]:
    folder = lab.artifacts(run) / "checkpoints"
    return {
        f"{file.relative_to(folder)} {name}": tensor
        for file in folder.rglob("last.ckpt")
        for name, tensor in torch.load(file, weights_only=True)["state_dict"].items()
    }


def histories(lab: Lab, run: Run) -> dict[str, set[tuple[int, float]]]:
    names = [name for name in run.data.metrics if not any(each in name for each in NOT_COMPARED)]
    return {name: {*lab.history(run, name)} for name in names}


@pytest.mark.parametrize("name", KILLS)
def test_killed_and_resumed(trained: SweepLab, own: SweepLab, name: str) -> None:
    """Killed within an epoch and resumed, a training has the weights and metrics that it would have had."""
    killed = own.run(program(name), *QUICK, KILL=str(KILLS[name]), OMP_NUM_THREADS="1")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    run_id = own.newest(f"model/{name}").info.run_id
    output = own.done(program(name), f"resume_run={run_id}", OMP_NUM_THREADS="1")
    assert "resuming from step" in output
    assert "not exact" not in output
    whole, resumed = trained.newest(f"model/{name}"), own.newest(f"model/{name}")
    assert (resumed.info.run_id, resumed.info.status) == (run_id, "FINISHED")
    one, other = weights(trained, whole), weights(own, resumed)
    assert one.keys() == other.keys()
    assert [key for key in one if not one[key].equal(other[key])] == []
    assert histories(own, resumed) == histories(trained, whole)


@pytest.mark.parametrize(
    ("name", "rates", "metric"),
    [
        ("autoencoder", "learning_rate=0.01,0.00001", "val_loss_epoch"),  # logged per step, too
        ("qlearning", "lr=0.02,0.00001", "total_reward"),  # no validation: pruned by epochs
        ("kfold", "lr=0.05,0.00001", "objective"),  # main returns the mean over its parts
    ],
)
def test_search(own: SweepLab, name: str, rates: str, metric: str) -> None:
    """A search prunes what is not promising, and names its objective as the metric is stored."""
    own.sweep(program(name), *QUICK, rates, *MEDIAN, OMP_NUM_THREADS="1")
    study = own.study()
    assert study.metric_names == [metric]
    assert states(study)["COMPLETE"] >= 1
    assert all(trial.intermediate_values for trial in study.trials)
    if name != "qlearning":  # what is learned by playing is a matter of luck
        assert states(study) == {"COMPLETE": 1, "PRUNED": 1}


def test_iterable_data(trained: SweepLab, own: SweepLab) -> None:
    """Q-learning says that it does not resume exactly, and goes on from its last checkpoint."""
    killed = own.run(program("qlearning"), *QUICK, KILL="13", OMP_NUM_THREADS="1")
    assert "resuming this run within an epoch is not exact" in killed.stderr + killed.stdout
    run_id = own.newest("model/qlearning").info.run_id
    output = own.done(program("qlearning"), f"resume_run={run_id}", OMP_NUM_THREADS="1")
    assert "resuming from step 12" in output
    best = own.artifacts(own.newest("model/qlearning")) / "checkpoints/best.ckpt"
    assert best.is_file()


def test_the_whole_chain(own: SweepLab) -> None:
    """The autoencoder is shown, repeated, compared, exported, and loaded when its code has changed."""
    run = own.newest("model/autoencoder").info.run_id
    assert "figures/reconstructed.png" in said(own, "show", run)
    assert "verdict: identical" in said(own, "rerun", run)
    again = own.newest("model/autoencoder").info.run_id
    assert "the same: settings" in said(own, "diff", run, again)
    said(own, "export", run, own.root / "exported")
    (own.root / program("autoencoder")).write_text("raise SystemExit\n")
    out, warned = own.python(f"""
        from src.utils.tracking import load_model
        print(type(load_model({run!r})).__name__)
    """)
    assert out.strip() == "LitAutoEncoder"
    assert "has changed since" in warned


def test_no_export(trained: SweepLab, tmp_path: Path) -> None:
    """A model without an example input, and a run whose models are those of its parts, are one line."""
    run = trained.newest("model/gan").info.run_id
    assert "an example_input_array in the model" in refused(trained, "export", run, tmp_path / "a")
    run = trained.newest("model/kfold").info.run_id
    line = refused(trained, "export", run, tmp_path / "b")
    assert "its checkpoints are fold0, fold1, fold2" in line
    said(trained, "export", run, tmp_path / "c", "--checkpoint", "fold1/best")


def test_steps_and_own_checkpoints(trained: SweepLab) -> None:
    """A fine-tuning that counts steps ends at its last; its own checkpoints lie beside those of the run."""
    run = trained.newest("model/huggingface")
    assert run.data.params["trainer.max_epochs"] == "-1"
    last = torch.load(trained.artifacts(run) / "checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == 18
    own = sorted(file.name for file in (trained.artifacts(run) / "steps").iterdir())
    assert own == ["step=12.ckpt", "step=16.ckpt", "step=4.ckpt", "step=8.ckpt"]


def test_group_of_folds(own: SweepLab) -> None:
    """The program of the loop over parts makes a group of runs with folds=3, with the same folds."""
    alone = own.newest("model/kfold")
    own.done(program("kfold"), *QUICK, "folds=3", OMP_NUM_THREADS="1")
    group = next(run for run in own.runs("model/kfold") if "group.members" in run.data.tags)
    assert group.data.tags["group.folds"] == "3"
    assert group.data.metrics["val_acc"] > 0
    assert alone.data.metrics["objective"] > 0
