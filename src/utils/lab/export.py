"""`lab export`: a model in a folder that needs nothing of this repository, and only torch to load.

model.pt2           the network with its weights, as torch.export writes it     (model.onnx on request)
model.safetensors   the weights alone       config.yaml   the run's settings
source/             the experiment as it ran
"""

import logging
import shutil
from importlib.util import find_spec
from inspect import getdoc
from pathlib import Path
from tempfile import mkdtemp

from src.utils.errors import UserError
from src.utils.execution.wording import figure
from src.utils.lab.example import Example
from src.utils.store.entry import Entry
from src.utils.store.ledger import artifact
from src.utils.store.objective import results
from src.utils.tracking import load_model

import torch
from pytorch_lightning import LightningModule
from safetensors.torch import save_file
from torch.export import ExportedProgram

README = """# {name}

{doc}

```python
import torch

model = torch.export.load("model.pt2").module()
answers = model({call})  # {batch}, N of any size
```

It needs torch and nothing else. `model.safetensors` holds the weights alone{onnx}.

| metric | value |
|---|---|
{metrics}

Run {id} of {experiment}, {when}{commit}. `config.yaml` has its settings, `source/` its code as it ran.
"""

# load_model says that it takes the kept source, which is what is meant here; torch that a shape
# doesn't fit, which our own error says
TALKERS = (load_model.__module__, "torch._subclasses.fake_tensor")


def export(
    one: Entry,
    folder: Path,
    checkpoint: str = "best",
    sample: str = "",
    onnx: bool = False,
    trust_source: bool = False,
) -> Path:
    """Write the folder, whole or not at all; `sample` says what the model takes (see `Example.of`)."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already: name a folder that isn't, or an empty one")
    missing = [name for name in ("onnx", "onnxscript") if onnx and find_spec(name) is None]
    if missing:
        packages = " ".join(missing)
        raise UserError(f"ONNX needs packages that are not installed: pip install {packages}")
    for talker in TALKERS:
        logging.getLogger(talker).setLevel(logging.CRITICAL)
    model = load_model(one.id, checkpoint=checkpoint, trust_source=trust_source)
    model.to(memory_format=torch.contiguous_format)
    batch = Example.of(model, sample)
    program = standalone(model, batch)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        torch.export.save(program, draft / "model.pt2")
        save_file(
            {key: tensor.contiguous() for key, tensor in model.state_dict().items()},
            draft / "model.safetensors",
        )
        if onnx:
            torch.onnx.export(program, f=draft / "model.onnx", external_data=False, verbose=False)
        _keep(one, draft)
        (draft / "README.md").write_text(readme(one, model, batch, onnx))
        for path in (draft, draft / "model.safetensors"):
            path.chmod(0o755 if path.is_dir() else 0o644)  # they were made for one person alone
        draft.replace(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def standalone(model: LightningModule, batch: Example) -> ExportedProgram:
    """The network without its Python code, for batches of any size; checked to answer the same.

    Raises:
        UserError: its `forward` does what torch.export can't follow, or another shape was meant.
    """
    try:
        with torch.no_grad():
            program = torch.export.export(
                model, batch.args, batch.kwargs, dynamic_shapes=batch.dynamic_shapes()
            )
            three = batch.of_size(3)
            answers = program.module()(*three.args, **three.kwargs)
            torch.testing.assert_close(answers, model(*three.args, **three.kwargs))
    except Exception as error:  # whatever the model's own code raises, too
        reason = str(error).strip().split("\n")[0]
        taken = ", ".join(f"{list(one.shape[1:])} {one.dtype}" for one in batch.tensors)
        raise UserError(f"torch.export can't follow the model with {taken}: {reason}") from None
    return program


def _keep(one: Entry, folder: Path) -> None:
    config, source = artifact(one, "config/config.yaml"), artifact(one, "source")
    assert config is not None and source is not None  # load_model has just used them
    shutil.copy(config, folder / "config.yaml")
    shutil.copytree(source, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))


def readme(one: Entry, model: LightningModule, batch: Example, onnx: bool) -> str:
    """How to load it, how good it is, and where it is from."""
    kinds = [kind for kind in type(model).__mro__ if kind.__module__ == type(model).__module__]
    commit = one.tags.get("mlflow.source.git.commit", "")[:12]
    changes = " with uncommitted changes" if one.is_dirty else ""
    return README.format(
        name=f"{type(model).__name__}, {one.name}",
        doc="\n\n".join(doc for kind in kinds if (doc := getdoc(kind))),
        call=batch.call(),
        batch=batch.describe(),
        onnx=", `model.onnx` the network for ONNX runtimes" if onnx else "",
        metrics="\n".join(
            f"| {key} | {figure(one.metrics[key])} |" for key in results(one.metrics)
        ),
        id=one.id,
        experiment=one.experiment,
        when=f"{one.started:%Y-%m-%d %H:%M}" if one.started else "",
        commit=f", commit {commit}{changes}" if commit else "",
    )
