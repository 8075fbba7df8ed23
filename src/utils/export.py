"""`lab export`: a model in a folder that needs nothing of this repository, and only torch to load.

model.safetensors   the weights            config.yaml   the run's settings
model.json          which class, and what it was made with
load.py, code/      what loads it          source/       the experiment as it ran
"""

import json
import pickle
import shutil
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from inspect import getdoc
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import src.utils.startup  # noqa: F401  before Lightning is imported
from src.utils import standalone
from src.utils.entry import Entry, artifact
from src.utils.errors import UserError
from src.utils.extraction import extract
from src.utils.leaderboard import figure
from src.utils.objective import results

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

README = """# {name}

{doc}

    python load.py

or, with this folder on the path:

```python
from load import load

model = load()  # in eval mode; a LightningModule where Lightning is installed, else a plain module
```

It needs torch and nothing else. {onnx}

| metric | value |
|---|---|
{metrics}

Run {id} of {experiment}, {when}{commit}. `config.yaml` has its settings, `source/` its code as it ran;
`code/` is the part of it that the model needs.
"""


def export(one: Entry, folder: Path, checkpoint: str = "best", sample: str | None = None) -> Path:
    """Write the folder, whole or not at all; `sample` asks for ONNX too (see `example`)."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already: name a folder that isn't, or an empty one")
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if sample is not None and missing:
        raise UserError(
            f"ONNX needs packages that are not installed: pip install {' '.join(missing)}"
        )
    weights, source = _needed(one, f"checkpoints/{checkpoint}.ckpt"), _needed(one, "source")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _write(one, draft, _read(weights), source)
        model = _check(draft)
        if sample is not None:
            to_onnx(model, example(model, sample), draft / "model.onnx")
        _describe(one, model, draft)
        draft.chmod(0o755)
        draft.replace(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _needed(one: Entry, path: str) -> Path:
    found = artifact(one, path)
    if found is None:
        raise UserError(
            f"run {one.short} ({one.state}) has no {path}: only a trained model is exported"
        )
    return found


def _read(file: Path) -> dict[str, Any]:
    try:
        read: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"{file} holds more than weights: refused, nothing was executed") from None
    return read


def _write(one: Entry, folder: Path, checkpoint: dict[str, Any], source: Path) -> None:
    where, name = checkpoint["model_class"]
    if not where.endswith(".py"):
        raise UserError(
            f"the class {name} is from {where}, not from the experiment: load it from there"
        )
    about = {
        "module": Path(where).stem,
        "class": name,
        "hyperparameters": _plain(checkpoint.get("hyper_parameters", {})),
        "run": one.id,
    }
    (folder / "model.json").write_text(json.dumps(about, indent=2) + "\n")
    tensors: dict[str, Tensor] = checkpoint["state_dict"]
    save_file(
        {key: tensor.contiguous().clone() for key, tensor in tensors.items()},
        folder / "model.safetensors",
    )
    (folder / "model.safetensors").chmod(0o644)
    shutil.copy(_needed(one, "config/config.yaml"), folder / "config.yaml")
    shutil.copytree(source, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(standalone.__file__, folder / "load.py")
    for path, text in extract(source / where, name).items():
        (folder / "code" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "code" / path).write_text(text)


def _plain(hyperparameters: dict[str, Any]) -> dict[str, Any]:
    for name, value in hyperparameters.items():
        try:
            json.dumps(value)
        except TypeError:
            kind = type(value).__name__
            raise UserError(
                f"hyperparameter {name} is a {kind}: only plain values can be exported"
            ) from None
    return dict(hyperparameters)


def _check(folder: Path) -> nn.Module:
    """The exported model, loaded by its own load.py."""
    spec = spec_from_file_location(f"load_{folder.name}", folder / "load.py")
    assert spec is not None and spec.loader is not None
    loader = module_from_spec(spec)
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(loader)
        model: nn.Module = loader.load()
    except (ImportError, NameError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"the model can't stand alone ({error}): a class that is exported may only use "
            "its own folder, src/utils and libraries"
        ) from None
    finally:
        sys.dont_write_bytecode = written
    return model


def example(model: nn.Module, sample: str) -> Tensor:
    """A batch of two: `28x28:uint8` says what one sample is; empty: the model's example_input_array."""
    given = getattr(model, "example_input_array", None)
    if not sample and isinstance(given, Tensor):
        return given
    shape, _, kind = sample.partition(":")
    dtype = getattr(torch, kind or "float32", None)
    sizes = shape.split("x")
    if not all(size.isdigit() for size in sizes) or not isinstance(dtype, torch.dtype):
        raise UserError(
            "ONNX needs the shape and type of one sample: --input 28x28:uint8, "
            "or an example_input_array in the model"
        )
    return torch.zeros(2, *map(int, sizes), dtype=dtype)


def to_onnx(model: nn.Module, batch: Tensor, file: Path) -> None:
    """Write the model as ONNX, for batches of any size."""
    torch.onnx.export(
        model,
        (batch,),
        file,
        input_names=["input"],
        output_names=["output"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def _describe(one: Entry, model: nn.Module, folder: Path) -> None:
    docs = [
        getdoc(kind) for kind in type(model).__mro__ if kind.__module__ == type(model).__module__
    ]
    commit = one.tags.get("mlflow.source.git.commit", "")
    onnx = "`model.onnx` is the same for ONNX runtimes." if (folder / "model.onnx").exists() else ""
    text = README.format(
        name=f"{type(model).__name__}, {one.name}",
        doc="\n\n".join(doc for doc in docs if doc),
        onnx=onnx,
        metrics="\n".join(
            f"| {name} | {figure(one.metrics[name])} |" for name in results(one.metrics)
        ),
        id=one.id,
        experiment=one.experiment,
        when=f"{one.started:%Y-%m-%d %H:%M}" if one.started else "",
        commit=f", commit {commit[:12]}{' with uncommitted changes' * one.is_dirty}"
        if commit
        else "",
    )
    (folder / "README.md").write_text(text)
