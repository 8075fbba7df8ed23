"""Models as other people write them: none is an image classifier with a validation each epoch."""

import re
import signal
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from conftest import Lab, add_experiment, made_once
from mlflow.entities import Run

MODELS = "src/model/model91/models.py"
SETTINGS = """\
defaults:
  - /training
  - _self_

kind: gan
dropout: 0.75
"""
KINDS = (
    "gan",
    "language",
    "interval",
    "seldom",
    "unknown",
    "twice",
    "folds",
    "pruned",
    "diverging",
    "training",
    "modes",
    "averaged",
)
FEW = ("max_epochs=3", "trainer.accelerator=cpu", "trainer.log_every_n_steps=2")
ONE_PROCESS = ("hydra/sweeper=basic", "hydra/launcher=basic")


class Trained(NamedTuple):
    """A laboratory, and what its trainings said."""

    lab: Lab
    said: dict[str, str]

    def run(self, kind: str) -> Run:
        return next(run for run in self.lab.runs("model/model91") if run.data.tags["kind"] == kind)

    def steps(self, kind: str, metric: str) -> list[int]:
        return [step for step, _ in self.lab.history(self.run(kind), metric)]

    def checkpoints(self, kind: str) -> list[str]:
        folder = self.lab.artifacts(self.run(kind)) / "checkpoints"
        return sorted(file.name for file in folder.iterdir())


@pytest.fixture(scope="session")
def trained(shared: Path, clone: Lab) -> Trained:
    """Each kind of model, trained in one process."""

    def make(lab: Lab) -> None:
        clone.copied(lab.root)
        add_experiment(lab, MODELS, SETTINGS)
        lab.done(MODELS, "-m", *ONE_PROCESS, *FEW, f"kind={','.join(KINDS)}")

    lab = made_once(shared / "models", make)
    runs = lab.runs("model/model91")
    logs = {r.data.tags["kind"]: lab.artifacts(r) / "logs/run.log" for r in runs}
    return Trained(lab, {kind: log.read_text() for kind, log in logs.items()})


def test_all_finish(trained: Trained) -> None:
    """Nothing that runs under plain Lightning ends otherwise here; a pruned run has not failed."""
    status = {run.data.tags["kind"]: run.info.status for run in trained.lab.runs("model/model91")}
    assert status == dict.fromkeys(KINDS, "FINISHED")


def test_manual_optimization(trained: Trained) -> None:
    """A GAN has a rate for each optimizer, a legal name for each metric, and its last weights."""
    run = trained.run("gan")
    assert trained.steps("gan", "lr/0") == trained.steps("gan", "lr/1") == [2, 3, 4, 6, 8, 9]
    assert run.data.metrics["recall_10"] == 0.5
    assert trained.said["gan"].count("MLflow takes no metric named recall@10") == 1
    assert "recall@10 0.5000" in trained.said["gan"]
    assert run.data.metrics["samples_per_second"] > 0
    assert trained.checkpoints("gan") == ["last.ckpt"]
    assert run.data.tags["checkpoint"].endswith("last.ckpt")


def test_endless_data(trained: Trained) -> None:
    """A language model without epochs or validation keeps its last weights, and says why only these."""
    run = trained.run("language")
    assert run.data.tags["checkpoint"].endswith("last.ckpt")
    last = torch.load(run.data.tags["checkpoint"], weights_only=True)
    assert last["global_step"] == 7
    assert trained.said["language"].count("val_loss is not measured without validation") == 1
    assert "epoch 1  " in trained.said["language"]
    assert "batches/s" in trained.said["language"]  # what is the size of such a batch?
    assert "train_loss_step" in run.data.metrics


def test_best_follows_each_validation(trained: Trained) -> None:
    """best.ckpt has the weights of the step that was validated best, though it lies inside an epoch."""
    run = trained.run("interval")
    assert run.data.tags["best"] == "0.0"
    folder = trained.lab.artifacts(run)
    best = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)
    assert best["global_step"] == 6
    assert trained.lab.history(run, "val_loss") == [(1, 4), (3, 2), (5, 0), (7, 2), (9, 4), (11, 6)]
    assert sorted(file.name for file in (folder / "own").iterdir()) == [
        "newest.ckpt",
        "step=6.ckpt",
    ]


def test_best_of_training(trained: Trained) -> None:
    """A monitor that is a metric of training is looked at when an epoch ends, where it is complete."""
    run = trained.run("training")
    losses = [value for _, value in trained.lab.history(run, "train_loss_epoch")]
    assert float(run.data.tags["best"]) == pytest.approx(min(losses))
    assert trained.checkpoints("training") == ["best.ckpt", "last.ckpt"]


def test_nan_by_hand(trained: Trained) -> None:
    """A logged loss that is no number stops a training that optimizes by hand, and is named."""
    refused = trained.run("diverging").data.tags["refused"]
    assert refused.startswith("critic_loss is nan at step 2")


def test_lines_of_an_epoch(trained: Trained) -> None:
    """Each validation inside an epoch has a line; lines have what is new, and no learning rates."""
    said = trained.said["interval"]
    assert re.search("epoch 2/3  step 6  train_loss 0.[0-9]+  val_loss 0.0000\n", said)
    assert said.count("epoch 2/3  ") == 2
    assert "lr-AdamW" not in said
    lines = [line for line in trained.said["seldom"].splitlines() if "epoch " in line]
    assert ["val_loss" in line for line in lines] == [False, True, False, True]


def test_learning_rate(trained: Trained) -> None:
    """The rates are those of their steps: near 0 where a one-cycle schedule ends."""
    rates = trained.lab.history(trained.run("interval"), "lr")
    assert [step for step, _ in rates] == [2, 4, 6, 8, 10, 12]
    assert max(value for _, value in rates) > 0.09
    assert rates[-1][1] < 1e-3


def test_nothing_stale(trained: Trained) -> None:
    """Metrics are written where they were measured: no validation, no value; and three epochs are 0 to 2."""
    assert trained.steps("seldom", "val_loss") == [7, 15]
    epochs = [value for _, value in trained.lab.history(trained.run("interval"), "epoch")]
    assert sorted({*epochs}) == [0, 1, 2]


def test_unknown_monitor(trained: Trained) -> None:
    """A monitored name that does not exist is one line with the names there are, before the first step."""
    run = trained.run("unknown")
    line = "monitor='val_acc' is not among the metrics: there are val_loss"
    assert run.data.tags["refused"] == line
    assert not {"val_loss", "train_loss_step"} & run.data.metrics.keys()


def test_modes(trained: Trained) -> None:
    """A callback or schedule that watches the monitored metric in the other mode is one line."""
    first, second = trained.run("modes").data.tags["refused"].splitlines()
    assert first == (
        "EarlyStopping watches val_loss with mode=max, and the run with mode=min: "
        'give EarlyStopping mode="min"'
    )
    assert second.startswith("ReduceLROnPlateau watches val_loss with mode=max")


def test_own_averaging(trained: Trained) -> None:
    """A user's StochasticWeightAveraging works beside the callbacks of the run."""
    assert trained.run("averaged").info.status == "FINISHED"
    assert trained.checkpoints("averaged") == ["best.ckpt", "last.ckpt"]


def test_time_limit(trained: Trained, tmp_path: Path) -> None:
    """max_time alone ends a training as max_steps does; a schedule that needs an end says so in one line."""
    lab = trained.lab.copied(tmp_path / "timed")
    quick = [one for one in FEW if "max_epochs" not in one]
    text = lab.done(MODELS, *quick, "kind=timed", "+trainer.max_time=00:00:00:01")
    validated = re.findall(r"epoch (\d+) .*val_loss", text)
    assert len(validated) == len({*validated})  # each validation is printed once, the last one, too
    run = lab.newest("model/model91")
    assert run.data.params["trainer.max_epochs"] == "-1"
    assert run.data.metrics["epoch"] > 5
    done = lab.run(MODELS, *quick, "kind=seldom", "+trainer.max_time=00:00:00:01")
    assert done.returncode == 0  # it says max_epochs=4 in its code
    done = lab.run(MODELS, *quick, "kind=training", "+trainer.max_time=00:00:00:01")
    assert done.returncode == 2
    assert "the schedule of the learning rate needs a number of steps" in done.stderr


@pytest.mark.parametrize("kind", ["twice", "folds"])
def test_one_training_a_run(trained: Trained, kind: str) -> None:
    """A second training in a run is refused with a line that says how to have both."""
    said = trained.run(kind).data.tags["refused"]
    assert said.startswith("a run holds one training")
    assert 'run.part("fold0")' in said


def test_summary(trained: Trained, tmp_path: Path) -> None:
    """The summary has whatever was measured; its commands fit: no reload without a checkpoint."""
    said = trained.lab.copied(tmp_path / "alone").done(MODELS, "kind=alone")
    assert "auc" in said
    assert "load_model" not in said
    assert "-m 'dropout=interval(0.375,1.5)'" in said


def test_resumed_from_the_best(trained: Trained, tmp_path: Path) -> None:
    """Killed when best.ckpt is written inside an epoch, a training goes on from there to the same end."""
    lab, whole = trained.lab.copied(tmp_path / "killed"), trained.run("interval")
    assert lab.run(MODELS, *FEW, "kind=interval", KILL="6").returncode == -signal.SIGKILL
    run = lab.newest("model/model91")
    assert trained.lab.history(whole, "val_loss")[:3] == lab.history(run, "val_loss")
    lab.done(MODELS, f"resume_run={run.info.run_id}")
    for metric in ("val_loss", "lr", "train_loss_step", "epoch"):
        assert set(lab.history(run, metric)) == set(trained.lab.history(whole, metric)), metric
    ends = [
        torch.load(place.artifacts(one) / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for place, one in ((lab, run), (trained.lab, whole))
    ]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[1])
