"""Resuming with other people's loaders and models, and what can't be resumed or loaded at all."""

from pathlib import Path

import pytest
import torch
from conftest import Lab, add_experiment
from mlflow.entities import Run
from weights import assert_same, weights

PROGRAM = "src/model/model92/loaders.py"
SHORT = ("max_epochs=3", "trainer.accelerator=cpu", "trainer.log_every_n_steps=1")
SETTINGS = """\
defaults:
  - /training
  - _self_

case: plain
value: plain
schedule: steps
"""


@pytest.fixture
def place(bare: Lab) -> Lab:
    """A clone with one experiment more."""
    add_experiment(bare, PROGRAM, SETTINGS)
    return bare


def newest(lab: Lab) -> Run:
    return lab.newest("model/model92")


def refused(lab: Lab, *arguments: str) -> str:
    """The one line with which a run is refused, once it is known what it trains."""
    done = lab.run(PROGRAM, *arguments)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert (done.returncode, len(errors)) == (2, 1), done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return errors[0]


@pytest.mark.parametrize(
    ("case", "stops"),
    [
        ("plain", [("5", "SIGTERM", 143), ("0", "SIGKILL", -9)]),
        ("workers", [("4", "SIGTERM", 143)]),
        ("accumulate", [("4", "SIGTERM", 143)]),  # between the two batches of a step
        ("dict", [("6", "SIGINT", 130)]),
        ("validations", [("2", "SIGTERM", 143)]),  # before a validation
    ],
)
def test_any_loader(place: Lab, case: str, stops: list[tuple[str, str, int]]) -> None:
    """Stopped within an epoch or at its end, a training ends with the weights it would have had, whatever
    draws random numbers: the order, the data in workers, the network."""
    settings = (f"case={case}", *SHORT)
    said = place.done(PROGRAM, *settings)
    assert "not exact" not in said
    whole = weights(place, newest(place))
    for batch, by, status in stops:
        assert place.run(PROGRAM, *settings, STOP=batch, BY=by).returncode == status
        said = place.done(PROGRAM, f"resume_run={newest(place).info.run_id}")
        assert "resuming from step" in said
        assert newest(place).info.status == "FINISHED"
        assert_same(weights(place, newest(place)), whole)


def test_more_epochs(place: Lab) -> None:
    """A finished run is never touched; with more epochs a new run goes on from all of its state, where
    the learning rate does not depend on the end."""
    place.done(PROGRAM, *SHORT)
    whole = weights(place, newest(place))
    place.done(PROGRAM, *SHORT, "max_epochs=2")
    old = newest(place)
    line = refused(place, f"resume_run={old.info.run_id}")
    assert "is finished" in line
    assert "max_epochs=" in line
    assert "warm_start=" in line
    place.done(PROGRAM, f"resume_run={old.info.run_id}", "max_epochs=3")
    new = newest(place)
    assert new.data.tags["continued_from"] == old.info.run_id
    assert new.data.params["max_epochs"] == new.data.params["trainer.max_epochs"] == "3"
    assert_same(weights(place, new), whole)
    assert (place.artifacts(new) / "checkpoints/best.ckpt").exists()
    now = place.client.get_run(old.info.run_id)
    assert now.to_dictionary() == old.to_dictionary()

    place.done(PROGRAM, *SHORT, "schedule=cosine", "max_epochs=2")
    line = refused(place, f"resume_run={newest(place).info.run_id}", "max_epochs=3")
    assert "CosineAnnealingLR" in line
    assert "warm_start=" in line


def test_what_would_not_come_back(place: Lab) -> None:
    """A run whose checkpoints could not be loaded is refused before its first batch, by the name of the
    hyperparameter; one whose checkpoints can't be read is not begun anew."""
    for value, named in {
        "numpy": ("hyperparameter value", "numpy.float64", ".item()"),
        "path": ("hyperparameter value", "PosixPath", "str(path)"),
        "module": ("hyperparameter value", "Linear", "__init__"),
        "nothing": ("Nothing", "needs wide", "save_hyperparameters"),
    }.items():
        line = refused(place, *SHORT, f"value={value}")
        assert all(part in line for part in named), line
        assert not (place.artifacts(newest(place)) / "checkpoints/last.ckpt").exists()

    assert place.run(PROGRAM, *SHORT, STOP="5", BY="SIGTERM").returncode == 143
    old = newest(place)
    for file in (place.artifacts(old) / "checkpoints").glob("*.ckpt"):
        torch.save({"value": Path("weights")}, file)
    line = refused(place, f"resume_run={old.info.run_id}")
    assert "last.ckpt: holds a pathlib" in line  # each by its name, whichever is the newest
    assert "best.ckpt: holds a pathlib" in line
    assert place.client.get_run(old.info.run_id).to_dictionary() == old.to_dictionary()
