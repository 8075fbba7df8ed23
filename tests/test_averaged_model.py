"""The model of a group: `load_model` and `lab export` give the mean of its members."""

from pathlib import Path

from src.utils.averaged_model import AveragedModel
from src.utils.errors import UserError

import numpy as np
import pytest
import torch
from conftest import MODEL, QUICK, Lab
from laboratory import refused, said
from sklearn.linear_model import LinearRegression, LogisticRegression
from test_blend import NAME, competition, groups  # noqa: F401  a fixture
from test_export import IMAGES

SAMPLES = np.random.default_rng(0).normal(size=(30, 3))


class Several(torch.nn.Module):
    """Returns a container of tensors."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def forward(self, inputs: torch.Tensor) -> dict[str, object]:
        return {"sum": inputs + self.number, "parts": (inputs * self.number,), "name": "several"}


def test_outputs() -> None:
    """Networks are called, other models predict, and outputs are averaged."""
    outputs = AveragedModel([Several(1), Several(3)])(torch.ones(2))
    assert outputs["sum"].tolist() == [3, 3]
    assert outputs["parts"][0].tolist() == [2, 2]
    assert outputs["name"] == "several"
    models = [LinearRegression().fit(SAMPLES, SAMPLES[:, column]) for column in (0, 1)]
    mean = SAMPLES[:, :2].mean(axis=1)
    assert AveragedModel(models).predict(SAMPLES) == pytest.approx(mean)


def test_classifiers() -> None:
    """Labels are not averaged: probabilities are, and the most probable class is predicted."""
    labels = np.where(SAMPLES > 0, "yes", "no")
    models = [LogisticRegression().fit(SAMPLES, labels[:, column]) for column in (0, 1)]
    model = AveragedModel(models)
    mean = (models[0].predict_proba(SAMPLES) + models[1].predict_proba(SAMPLES)) / 2
    assert model.predict_proba(SAMPLES) == pytest.approx(mean)
    assert (model.predict(SAMPLES) == np.where(mean[:, 1] > 0.5, "yes", "no")).all()
    other = LogisticRegression().fit(SAMPLES, SAMPLES[:, 0] > 0)
    with pytest.raises(UserError, match="members have seen different classes"):
        AveragedModel([models[0], other]).predict(SAMPLES)


LOAD = f"""
import torch
from src.utils.tracking import load_model
model = load_model("latest")
with torch.inference_mode():
    parts = [member({IMAGES}) for member in model.members]
    outputs = model({IMAGES})
assert len(parts) == 2
torch.testing.assert_close(outputs, (parts[0] + parts[1]) / 2)
print(outputs.flatten().tolist())
"""


def test_networks(fresh: Lab, tmp_path: Path) -> None:
    """A group of networks is loaded, and exported as one network."""
    fresh.done(MODEL, *QUICK, "seeds=2")
    (group,) = [run for run in fresh.runs("model/model01") if "group.members" in run.data.tags]
    (fresh.root / MODEL).write_text("")
    out, warned = fresh.python(LOAD.replace("latest", group.info.run_id))
    assert warned.count("has changed since") == 1
    said(fresh, "export", group.info.run_id, tmp_path / "model")
    outputs = torch.tensor([float(value) for value in out.strip("[]\n").split(",")])
    network = torch.export.load(tmp_path / "model" / "model.pt2").module()
    images = torch.arange(3 * 784).reshape(3, 28, 28).to(torch.uint8)
    torch.testing.assert_close(network(images).flatten(), outputs, rtol=1e-4, atol=1e-5)
    assert "the mean of the outputs of 2 models" in (tmp_path / "model/README.md").read_text()


UNFINISHED = """
    import sys
    import numpy as np
    from src.utils.errors import UserError
    from src.utils.store.mlflow import open_store
    from src.utils.tracking import load_model
    model = load_model({group!r})
    samples = np.ones((2, 4))
    mean = np.mean([member.predict(samples) for member in model.members], axis=0)
    print(model, (model.predict(samples) == mean).all(), "torch" in sys.modules)
    open_store().set_terminated({member!r}, "KILLED")
    try:
        load_model({group!r})
    except UserError as error:
        print(error)
"""


def test_other_models(competition: Lab, tmp_path: Path) -> None:  # noqa: F811
    """A group of any other models is loaded without torch, if all are finished, and not exported."""
    own = competition.copied(tmp_path / "own")
    group = groups(own)[0].info.run_id
    line = refused(own, "export", group, tmp_path / "model")
    assert "holds a ExtraTreesRegressor: lab export writes models of Lightning" in line
    member = next(run for run in own.runs(NAME) if run.data.tags.get("group.run_id") == group)
    out, _ = own.python(UNFINISHED.format(group=group, member=member.info.run_id))
    loaded, error = out.splitlines()
    assert loaded == "AveragedModel(3 of ExtraTreesRegressor) True False"
    assert f"has 2 of 3 members finished: lab resume {group[:8]} runs the others" in error
