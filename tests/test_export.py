"""`lab export`: a model in a folder of its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import MODEL, QUICK, Lab
from laboratory import a_changeable_one, a_laboratory, refused, said  # noqa: F401  fixtures
from safetensors.torch import load_file
from test_lab import history

# What is installed here, and not where the model goes: all but torch, and perhaps Lightning.
HERMIT = """
import sys
sys.modules.update(dict.fromkeys({away}))  # as if they were not installed
sys.path.insert(0, {folder!r})
import torch
from load import load
model = load()
assert not model.training
images = torch.arange(2 * 784, dtype=torch.uint8).reshape(2, 28, 28)
with torch.inference_mode():
    print(model(images).flatten().tolist())
"""
TRACKED = """
import torch
from src.utils.tracking import load_model
images = torch.arange(2 * 784, dtype=torch.uint8).reshape(2, 28, 28)
with torch.inference_mode():
    print(load_model("{reference}")(images).flatten().tolist())
"""
SIBLING = """import math

import mlflow

SCALE = math.sqrt(4.0)  # of logits


def scaled(x):
    return x * SCALE
"""
OURS = ["src", "hydra", "omegaconf", "mlflow", "optuna", "pydantic", "typer", "safetensors"]
LIGHTNING = ["pytorch_lightning", "lightning", "lightning_fabric", "torchmetrics"]


def alone(folder: Path, away: list[str]) -> str:
    """What the exported model answers where some packages are missing."""
    code = HERMIT.format(away=away, folder=str(folder))
    environment = {"PATH": os.environ["PATH"]}
    command = [sys.executable, "-I", "-c", code]
    done = subprocess.run(
        command, env=environment, cwd="/", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_export(fresh: Lab, tmp_path: Path, network: str) -> None:
    """The exported model answers like the tracked one, with Lightning and with torch alone."""
    fresh.done(MODEL, *QUICK, f"network={network}")
    run, folder = fresh.newest(), tmp_path / "a model"
    assert str(folder) in said(fresh, "export", "latest", folder)
    answers, _ = fresh.python(TRACKED.format(reference=run.info.run_id))
    assert alone(folder, OURS) == answers
    shutil.rmtree(fresh.root / "src")
    assert alone(folder, OURS + LIGHTNING) == answers


def test_folder(laboratory: Lab, tmp_path: Path) -> None:
    """The folder has weights, settings, code as it ran, and a README with metrics."""
    run, folder = history(laboratory)["faster"], tmp_path / "model"
    said(laboratory, "export", run.info.run_id, folder)
    checkpoint = torch.load(laboratory.artifacts(run) / "checkpoints/best.ckpt", weights_only=True)
    weights = load_file(folder / "model.safetensors")
    assert weights.keys() == checkpoint["state_dict"].keys()
    assert all(torch.equal(weights[name], checkpoint["state_dict"][name]) for name in weights)
    assert "learning_rate: 0.01" in (folder / "config.yaml").read_text()
    source = laboratory.artifacts(run) / "source" / Path(MODEL).name
    assert (folder / "source" / Path(MODEL).name).read_text() == source.read_text()
    readme = (folder / "README.md").read_text()
    assert f"| val_acc | {run.data.metrics['val_acc']:.4f} |" in readme
    assert "with uncommitted changes" in readme
    assert json.loads((folder / "model.json").read_text())["run"] == run.info.run_id
    python = [sys.executable, folder / "load.py"]
    assert "parameters" in subprocess.run(python, check=True, capture_output=True, text=True).stdout


def test_study(laboratory: Lab, tmp_path: Path) -> None:
    """A study's name exports its best trial; --checkpoint last the last weights."""
    study = history(laboratory)["study"]
    said(laboratory, "export", study.info.run_name, tmp_path / "best")
    about = json.loads((tmp_path / "best" / "model.json").read_text())
    assert about["run"] == study.data.tags["best.run_id"]
    said(laboratory, "export", study.info.run_name, tmp_path / "last", "--checkpoint", "last")
    assert (tmp_path / "last" / "model.safetensors").exists()


def test_refusals(laboratory: Lab, tmp_path: Path) -> None:
    """A folder that is there, a run without a model, a missing package: a line each, and nothing is left."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    folder = tmp_path / "new"
    assert "is there already" in refused(laboratory, "export", "best", tmp_path / "full")
    assert "has no checkpoints" in refused(laboratory, "export", "feature01/latest", folder)
    assert "checkpoints/middle.ckpt" in refused(
        laboratory, "export", "best", folder, "--checkpoint", "middle"
    )
    assert "pip install onnx" in refused(laboratory, "export", "best", folder, "--onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


def test_classes_from_elsewhere(fresh: Lab, tmp_path: Path) -> None:
    """Siblings come along, with what they need and under names that clash with nothing."""
    folder = fresh.root / Path(MODEL).parent
    program = fresh.root / MODEL
    (folder / "score.py").write_text(SIBLING)
    text = program.read_text().replace(
        "from pathlib import Path\n", "from pathlib import Path\nimport score as own\n", 1
    )
    text = text.replace(
        "logits: Tensor = self.network(", "logits: Tensor = own.scaled(self.network("
    )
    program.write_text(text.replace("(pixels.unsqueeze(1))", "(pixels.unsqueeze(1)))"))
    fresh.done(MODEL, *QUICK)
    said(fresh, "export", "latest", tmp_path / "model")
    answers, _ = fresh.python(TRACKED.format(reference=fresh.newest().info.run_id))
    assert alone(tmp_path / "model", OURS + LIGHTNING) == answers
    code = (tmp_path / "model/code/score.py").read_text()
    assert "SCALE = math.sqrt(4.0)  # of logits" in code
    assert "mlflow" not in code
