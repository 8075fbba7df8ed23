"""The worked example in a laboratory: MNIST's sample, its feature and one quick model."""

from pathlib import Path

import pytest
from conftest import ENGINE, QUICK, ROOT, Lab, carry, commit, made_once

DATASET = "src/dataset/dataset01/mnist.py"
FEATURE = "src/feature/feature01/mnist_tensors.py"
MODEL = "src/model/model01/image_classifier_models.py"
CARRIED = (
    *ENGINE,
    "src/dataset",
    "src/feature",
    "src/model",
    "config",
    "notebooks",
    "_data/sample",
)
needed = pytest.mark.skipif(
    not (ROOT / DATASET).exists(), reason="the worked example was removed from this project"
)


@pytest.fixture(scope="session", name="mnist_clone")
def a_clone(shared: Path) -> Lab:
    """This repository as one commit, in which nothing has run yet. To be read only."""

    def make(lab: Lab) -> None:
        carry(CARRIED, lab.root)
        commit(lab)

    return made_once(shared / "mnist_clone", make)


@pytest.fixture(scope="session", name="mnist")
def a_trained_one(shared: Path, mnist_clone: Lab) -> Lab:
    """A copy in which the sample became a dataset, a feature and one quick model. To be read only."""

    def make(lab: Lab) -> None:
        mnist_clone.copied(lab.root)
        lab.done(DATASET, "source=sample")
        lab.done(FEATURE)
        lab.done(MODEL, *QUICK)

    return made_once(shared / "mnist", make)


@pytest.fixture(name="fresh_mnist")
def a_fresh_one(mnist: Lab, tmp_path: Path) -> Lab:
    """A copy that the test may change."""
    return mnist.copied(tmp_path / "fresh")
