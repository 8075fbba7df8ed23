"""`lab export`: a model in a folder that needs only torch."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import MODEL, QUICK, Lab
from laboratory import a_changeable_one, a_laboratory, refused, said  # noqa: F401  fixtures
from safetensors.torch import load_file
from scripted import document
from test_lab import history

IMAGES = "torch.arange(3 * 784).reshape(3, 28, 28).to(torch.uint8)"
ONLY_TORCH = f"""
import sys
sys.modules.update(dict.fromkeys({{away}}))  # as if they were not installed
import torch
model = torch.export.load("model.pt2").module()
print(model({IMAGES}).flatten().tolist())
"""
TRACKED = f"""
import torch
from src.utils.tracking import load_model
with torch.inference_mode():
    print(load_model("{{reference}}")({IMAGES}).flatten().tolist())
"""
NOT_INSTALLED = [
    "src",
    "pytorch_lightning",
    "lightning_fabric",
    "torchmetrics",
    "hydra",
    "mlflow",
    "optuna",
]


def exported(folder: Path) -> list[float]:
    """The outputs of the exported model where nothing but torch is installed."""
    command = [sys.executable, "-I", "-c", ONLY_TORCH.format(away=NOT_INSTALLED)]
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [float(value) for value in done.stdout.strip("[]\n").split(",")]


def tracked(lab: Lab, reference: str) -> list[float]:
    """The outputs of the model when it is loaded from its run."""
    outputs, _ = lab.python(TRACKED.format(reference=reference))
    return [float(value) for value in outputs.strip("[]\n").split(",")]


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_export(fresh: Lab, tmp_path: Path, network: str) -> None:
    """The exported model and its ONNX have the outputs of the tracked one, with torch alone."""
    fresh.done(MODEL, *QUICK, f"network={network}")
    run, folder = fresh.newest(), tmp_path / "a model"
    assert str(folder) in said(fresh, "export", "latest", folder, "--onnx")
    outputs = tracked(fresh, run.info.run_id)
    shutil.rmtree(fresh.root / "src")
    assert exported(folder) == pytest.approx(outputs, rel=1e-4, abs=1e-5)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    images = np.arange(3 * 784).reshape(3, 28, 28).astype(np.uint8)
    (logits,) = session.run(None, {session.get_inputs()[0].name: images})
    assert np.ravel(logits).tolist() == pytest.approx(outputs, rel=1e-3, abs=1e-4)


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
    assert "uint8 [N, 28, 28]" in readme
    assert "with uncommitted changes" in readme
    assert run.info.run_id in readme
    assert not (folder / "model.onnx").exists()


def test_study(laboratory: Lab, tmp_path: Path) -> None:
    """A study's name exports its best trial; --checkpoint last the last weights."""
    study = history(laboratory)["study"]
    found = document(laboratory, "export", study.info.run_name, tmp_path / "best")
    assert found["run"] == study.data.tags["best.run_id"]
    assert {"model.pt2", "config.yaml"} < {*found["files"]}
    assert study.data.tags["best.run_id"] in (tmp_path / "best" / "README.md").read_text()
    said(laboratory, "export", study.info.run_name, tmp_path / "last", "--checkpoint", "last")
    assert (tmp_path / "last" / "model.safetensors").exists()


def test_refusals(laboratory: Lab, tmp_path: Path) -> None:
    """An existing folder, a run without a model, a wrong shape: a one-line error, and no folder is left."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    folder = tmp_path / "new"
    assert "exists already" in refused(laboratory, "export", "best", tmp_path / "full")
    assert "has no checkpoints" in refused(laboratory, "export", "feature01/latest", folder)
    for option, value, answer in (
        ("--checkpoint", "middle", "checkpoints/middle.ckpt"),
        ("--input", "28 pixels", "--input 28x28:uint8"),
        ("--input", "28x29:uint8", "torch.export can't follow the model with [28, 29] torch.uint8"),
    ):
        assert answer in refused(laboratory, "export", "best", folder, option, value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


INPUTS = """
    import torch
    from pytorch_lightning import LightningModule
    from src.utils.lab.export import ExampleInput, export_program

    class Pair(LightningModule):
        def __init__(self, given):
            super().__init__()
            self.example_input_array = given
            self.layer = torch.nn.Linear(4, 3)
        def forward(self, x, mask, scale=None):
            y = self.layer(x) * mask
            return {"logits": y, "parts": (y.sum(), mask)}

    x, mask = torch.rand(5, 4), torch.ones(5, 1, dtype=torch.bool)
    for given in ((x, mask), {"x": x, "mask": mask}, {"x": x, "mask": mask, "scale": torch.ones(9)}):
        batch = ExampleInput.of(Pair(given), "")
        program = export_program(Pair(given).eval(), batch)
        seven = batch.with_size(7)
        outputs = program.module()(*seven.args, **seven.kwargs)
        print(sorted(outputs), len(outputs["logits"]), batch.call_arguments(), batch.describe(), sep=" | ")
"""


def test_several_inputs(clone: Lab) -> None:
    """Models with several inputs, positional or named, and several outputs are exported, for batches of
    any size; what is no batch keeps its shape."""
    out, _ = clone.python(INPUTS)
    start = "['logits', 'parts'] | 7 | "
    assert out.splitlines() == [
        f"{start}input1, input2 | input1 float32 [N, 4]; input2 bool [N, 1]",
        f"{start}x=x, mask=mask | x float32 [N, 4]; mask bool [N, 1]",
        f"{start}x=x, mask=mask, scale=scale | "
        "x float32 [N, 4]; mask bool [N, 1]; scale float32 [9]",
    ]


def test_no_onnx(laboratory: Lab, tmp_path: Path) -> None:
    """Where the packages that ONNX needs are not installed, they are named."""
    without = "import sys; sys.modules['onnx'] = None; from src.utils.lab.cli import app; app()"
    command = [sys.executable, "-c", without, "export", "best", tmp_path / "model", "--onnx"]
    process = laboratory.start(*command)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors == "error: ONNX needs packages that are not installed: pip install onnx\n"
    assert not (tmp_path / "model").exists()
