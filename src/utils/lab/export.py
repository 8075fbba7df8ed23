"""`lab export`: a model in a folder that needs nothing of this repository, and only torch to load.

model.pt2           the network with its weights, as torch.export writes it     (model.onnx on request)
model.safetensors   the weights alone       config.yaml   the run's settings
source/             the experiment as it ran
"""

import logging
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from inspect import getdoc
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from src.utils.errors import UserError
from src.utils.store.objective import result_metrics
from src.utils.store.reader import RunRecord, find_artifact
from src.utils.terminal import format_metric
from src.utils.tracking import load_model

import torch
from pytorch_lightning import LightningModule
from safetensors.torch import save_file
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.utils._pytree import tree_leaves, tree_map

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


@dataclass(frozen=True)
class ExampleInput:
    """`model(*args, **kwargs)`: tensors, or anything that holds tensors."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @classmethod
    def of(cls, model: LightningModule, sample: str) -> "ExampleInput":
        """A batch of two: `28x28:uint8` says what one sample is; empty: the model's example_input_array,
        as Lightning takes it (a tuple is several inputs, a dict named ones)."""
        given = model.example_input_array
        if sample or given is None:
            return cls((_zeros(sample),), {})
        if isinstance(given, dict):
            found = cls((), {str(name): value for name, value in given.items()})
        else:
            found = cls(tuple(given) if isinstance(given, tuple | list) else (given,), {})
        if not found.tensors:
            raise UserError("the model's example_input_array holds no tensor: see --input")
        return found.of_size(2)

    @property
    def tensors(self) -> list[Tensor]:
        """All of them, whatever holds them."""
        return [one for one in tree_leaves((self.args, self.kwargs)) if isinstance(one, Tensor)]

    def of_size(self, count: int) -> "ExampleInput":
        """The same with `count` samples, each the first one."""

        def sized(value: Any) -> Any:
            return torch.cat([value[:1]] * count) if self._is_batched(value) else value

        args, kwargs = tree_map(sized, (self.args, self.kwargs))
        return ExampleInput(args, kwargs)

    def dynamic_shapes(self) -> dict[str, Any] | tuple[Any, ...]:
        """For torch.export: the first dimension of what is batched has any size."""
        batch = Dim("batch")

        def shape(value: Any) -> Any:
            return {0: batch} if self._is_batched(value) else None

        shapes: dict[str, Any] | tuple[Any, ...]
        shapes = tree_map(shape, self.kwargs or self.args)
        return shapes

    def call(self) -> str:
        """`batch`, or the inputs as they are written in a call."""
        if self.kwargs:
            return ", ".join(f"{name}={name}" for name in self.kwargs)
        return ", ".join(self._names())

    def describe(self) -> str:
        """Type and shape of each input: `uint8 [N, 28, 28]`."""
        named = dict(zip(self._names(), self.args, strict=True)) | self.kwargs
        said = {name: ", ".join(map(self._spelled, _tensors(one))) for name, one in named.items()}
        if list(said) == ["batch"]:
            return said["batch"]
        return "; ".join(f"{name} {shapes}" for name, shapes in said.items() if shapes)

    def _names(self) -> list[str]:
        one = len(self.args) == 1
        return ["batch"] if one else [f"input{number}" for number in range(1, len(self.args) + 1)]

    def _is_batched(self, value: Any) -> bool:
        """The first input says how many samples there are; a table of another length is none of them."""
        if not isinstance(value, Tensor) or not value.ndim:
            return False
        return len(value) == len(next(one for one in self.tensors if one.ndim))

    def _spelled(self, tensor: Tensor) -> str:
        first = ["N"] if self._is_batched(tensor) else []
        sizes = ", ".join([*first, *map(str, tensor.shape[len(first) :])])
        return f"{str(tensor.dtype).removeprefix('torch.')} [{sizes}]"


def export(
    one: RunRecord,
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
    batch = ExampleInput.of(model, sample)
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


def standalone(model: LightningModule, batch: ExampleInput) -> ExportedProgram:
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


def _keep(one: RunRecord, folder: Path) -> None:
    config, source = find_artifact(one, "config/config.yaml"), find_artifact(one, "source")
    assert config is not None and source is not None  # load_model has just used them
    shutil.copy(config, folder / "config.yaml")
    shutil.copytree(source, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))


def readme(one: RunRecord, model: LightningModule, batch: ExampleInput, onnx: bool) -> str:
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
            f"| {key} | {format_metric(one.metrics[key])} |" for key in result_metrics(one.metrics)
        ),
        id=one.id,
        experiment=one.experiment,
        when=f"{one.started:%Y-%m-%d %H:%M}" if one.started else "",
        commit=f", commit {commit}{changes}" if commit else "",
    )


def _tensors(value: Any) -> list[Tensor]:
    return [one for one in tree_leaves(value) if isinstance(one, Tensor)]


def _zeros(sample: str) -> Tensor:
    shape, _, kind = sample.partition(":")
    dtype, sizes = getattr(torch, kind or "float32", None), shape.split("x")
    if not all(size.isdigit() for size in sizes) or not isinstance(dtype, torch.dtype):
        raise UserError(
            "the shape and type of one sample are needed: --input 28x28:uint8, "
            "or an example_input_array in the model"
        )
    return torch.zeros(2, *map(int, sizes), dtype=dtype)


# MERGED lab/example: What a model is called with, as `lab export` tries it: positional and named inputs, batched.
