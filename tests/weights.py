"""The weights that a training has ended with."""

import torch
from conftest import Lab
from mlflow.entities import Run
from torch import Tensor


def weights(lab: Lab, run: Run) -> dict[str, Tensor]:
    """Those of a run's last checkpoint."""
    last = lab.artifacts(run) / "checkpoints" / "last.ckpt"
    return dict(torch.load(last, weights_only=True)["state_dict"])


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Bit for bit."""
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
