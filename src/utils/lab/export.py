"""`lab export`: write the model of a run to a folder that needs only torch to load.

model.pt2           the network with its weights, as torch.export writes it     (model.onnx on request)
model.safetensors   the weights alone       config.yaml   the settings of the run
source/             the code of the run     README.md     how to load it, and the metrics
"""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from inspect import getdoc
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from src.utils.averaged_model import AveragedModel, mean_output
from src.utils.errors import UserError
from src.utils.paths import SAVED
from src.utils.store.objective import result_metrics
from src.utils.store.reader import find_artifact
from src.utils.store.record import RunRecord
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
outputs = model({arguments})  # {inputs}, N of any size
```

{group}It needs torch and nothing else. `model.safetensors` holds the weights alone{onnx}.

| metric | value |
|---|---|
{metrics}

Run {id} of {experiment}, {started}{commit}. `config.yaml` has its settings, `source/` its code.
"""

# Loggers whose warnings do not matter here: load_model's, that it uses the source saved with the run, and
# torch's, that a shape does not fit, which the UserError says.
QUIET_LOGGERS = (load_model.__module__, "torch._subclasses.fake_tensor")


@dataclass(frozen=True)
class ExampleInput:
    """A batch to call a model with: `model(*args, **kwargs)`, tensors or containers of tensors."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @classmethod
    def of(cls, model: LightningModule, sample: str) -> "ExampleInput":
        """A batch of two samples.

        Args:
            sample: Shape and type of one sample, as in `28x28:uint8`. If empty, the model's
                example_input_array is used as Lightning uses it: a tuple holds positional inputs, a
                dict holds named ones.

        Raises:
            UserError: `sample` cannot be parsed, or the model has no example_input_array with a tensor.
        """
        example = model.example_input_array
        if sample or example is None:
            return cls((_zeros(sample),), {})
        if isinstance(example, dict):
            batch = cls((), {str(name): value for name, value in example.items()})
        else:
            batch = cls(tuple(example) if isinstance(example, tuple | list) else (example,), {})
        if not batch.tensors:
            raise UserError("the model's example_input_array holds no tensor: see --input")
        return batch.with_size(2)

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors, also those inside containers."""
        return _tensors((self.args, self.kwargs))

    def with_size(self, count: int) -> "ExampleInput":
        """The same with `count` samples, each a copy of the first one."""

        def resize(value: Any) -> Any:
            return torch.cat([value[:1]] * count) if self._is_batched(value) else value

        args, kwargs = tree_map(resize, (self.args, self.kwargs))
        return ExampleInput(args, kwargs)

    def dynamic_shapes(self) -> dict[str, Any] | tuple[Any, ...]:
        """For torch.export: the first dimension of a batched tensor may have any size."""
        batch = Dim("batch")

        def shape(value: Any) -> Any:
            return {0: batch} if self._is_batched(value) else None

        shapes: dict[str, Any] | tuple[Any, ...]
        shapes = tree_map(shape, self.kwargs or self.args)
        return shapes

    def call_arguments(self) -> str:
        """As they are written in a call: `batch`, `input1, input2`, or `x=x, mask=mask`."""
        if self.kwargs:
            return ", ".join(f"{name}={name}" for name in self.kwargs)
        return ", ".join(self._names())

    def describe(self) -> str:
        """Type and shape of each input: `uint8 [N, 28, 28]`."""
        values = dict(zip(self._names(), self.args, strict=True)) | self.kwargs
        shapes = {name: self._shapes(value) for name, value in values.items()}
        if list(shapes) == ["batch"]:
            return shapes["batch"]
        return "; ".join(f"{name} {text}" for name, text in shapes.items() if text)

    def _names(self) -> list[str]:
        count = len(self.args)
        return ["batch"] if count == 1 else [f"input{i}" for i in range(1, count + 1)]

    def _shapes(self, value: Any) -> str:
        return ", ".join(map(self._shape, _tensors(value)))

    def _shape(self, tensor: Tensor) -> str:
        batch = ["N"] if self._is_batched(tensor) else []
        sizes = ", ".join([*batch, *map(str, tensor.shape[len(batch) :])])
        return f"{str(tensor.dtype).removeprefix('torch.')} [{sizes}]"

    def _is_batched(self, value: Any) -> bool:
        """Whether it is as long as the first tensor: a tensor of another length is not a batch."""
        if not isinstance(value, Tensor) or not value.ndim:
            return False
        return len(value) == len(next(tensor for tensor in self.tensors if tensor.ndim))


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _zeros(sample: str) -> Tensor:
    shape, _, name = sample.partition(":")
    dtype, sizes = getattr(torch, name or "float32", None), shape.split("x")
    if not all(size.isdigit() for size in sizes) or not isinstance(dtype, torch.dtype):
        raise UserError(
            "the shape and type of one sample are needed: --input 28x28:uint8, "
            "or an example_input_array in the model"
        )
    return torch.zeros(2, *map(int, sizes), dtype=dtype)


def export_run(
    record: RunRecord,
    folder: Path,
    checkpoint: str = "best",
    sample: str = "",
    onnx: bool = False,
    trust_source: bool = False,
) -> None:
    """Write the model of a run to a new folder, completely or not at all.

    The model of a group is one network: the mean of the outputs of its members.

    Args:
        checkpoint: `best` or `last`.
        sample: Shape and type of one sample: see `ExampleInput.of`.
        onnx: Whether model.onnx is written, too.
        trust_source: Whether source code that is saved in a store elsewhere may be run.

    Raises:
        UserError: the folder exists and is not empty, a package for ONNX is missing, the model cannot be
            loaded or is not of Lightning, its input is unknown, or torch.export fails.
    """
    _check_export(folder, onnx)
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    model = load_model(record.id, checkpoint=checkpoint, trust_source=trust_source)
    members = model.members if isinstance(model, AveragedModel) else [model]
    _check_members(record, members)
    network = AveragedNetwork(members) if record.is_group else members[0]
    network.to(memory_format=torch.contiguous_format)
    batch = ExampleInput.of(members[0], sample)
    program = export_program(network, batch)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _save_model(program, network, draft, onnx)
        _copy_source(record, draft)
        (draft / "README.md").write_text(_readme(record, members, batch, onnx))
        draft.chmod(0o755)  # mkdtemp makes a folder that only its owner can read
        draft.replace(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def as_dict(record: RunRecord, folder: Path) -> dict[str, Any]:
    """What was written, as `lab export --json` prints it."""
    files = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return {"run": record.id, "folder": folder, "files": [str(file) for file in files]}


def print_export(record: RunRecord, folder: Path) -> None:
    """Print where the model is."""
    source = f"{record.experiment} {record.short} ({record.name})"
    print(f"{folder}: {source}; {folder}/README.md says how to load it")


def _check_export(folder: Path, onnx: bool) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already: name a new folder or an empty one")
    missing = [name for name in ("onnx", "onnxscript") if onnx and find_spec(name) is None]
    if missing:
        names = " ".join(missing)
        raise UserError(f"ONNX needs packages that are not installed: pip install {names}")


def _check_members(record: RunRecord, members: Sequence[object]) -> None:
    other = next((one for one in members if not isinstance(one, LightningModule)), None)
    if other is None:
        return
    files = find_artifact(record, SAVED)
    raise UserError(
        f"run {record.short} holds a {type(other).__name__}: lab export writes models of Lightning"
        + (f"; the files that this one saved are in {files}" if files else "")
    )


class AveragedNetwork(torch.nn.Module):
    """The mean of the outputs of several networks."""

    def __init__(self, members: Sequence[torch.nn.Module]) -> None:
        super().__init__()
        self.members = torch.nn.ModuleList(members)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return mean_output([member(*args, **kwargs) for member in self.members])


def export_program(model: torch.nn.Module, batch: ExampleInput) -> ExportedProgram:
    """Export the network for batches of any size, and check that its outputs are the model's.

    Raises:
        UserError: torch.export can't follow `forward`, or the shape of the input is wrong.
    """
    shapes = batch.dynamic_shapes()
    if isinstance(model, AveragedNetwork) and batch.args:
        shapes = (shapes,)  # of its one parameter, *args
    try:
        with torch.no_grad():
            program = torch.export.export(model, batch.args, batch.kwargs, dynamic_shapes=shapes)
            three = batch.with_size(3)
            outputs = program.module()(*three.args, **three.kwargs)
            torch.testing.assert_close(outputs, model(*three.args, **three.kwargs))
    except Exception as error:  # whatever the model's own code raises, too
        reason = str(error).strip().split("\n")[0]
        inputs = ", ".join(f"{list(tensor.shape[1:])} {tensor.dtype}" for tensor in batch.tensors)
        raise UserError(f"torch.export can't follow the model with {inputs}: {reason}") from None
    return program


def _save_model(program: ExportedProgram, model: torch.nn.Module, folder: Path, onnx: bool) -> None:
    torch.export.save(program, folder / "model.pt2")
    weights = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "model.safetensors").chmod(0o644)  # safetensors lets only its owner read it
    if onnx:
        torch.onnx.export(program, f=folder / "model.onnx", external_data=False, verbose=False)


def _copy_source(record: RunRecord, folder: Path) -> None:
    config, source = find_artifact(record, "config/config.yaml"), find_artifact(record, "source")
    assert config is not None and source is not None  # load_model has just used them
    shutil.copy(config, folder / "config.yaml")
    shutil.copytree(source, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))


def _readme(
    record: RunRecord, members: Sequence[LightningModule], batch: ExampleInput, onnx: bool
) -> str:
    model, count = members[0], len(members)
    own = [kind for kind in type(model).__mro__ if kind.__module__ == type(model).__module__]
    commit = record.tags.get("mlflow.source.git.commit", "")[:12]
    changes = " with uncommitted changes" if record.is_dirty else ""
    metrics = {name: format_metric(record.metrics[name]) for name in result_metrics(record.metrics)}
    return README.format(
        name=f"{type(model).__name__}, {record.name}",
        doc="\n\n".join(doc for kind in own if (doc := getdoc(kind))),
        arguments=batch.call_arguments(),
        inputs=batch.describe(),
        group=f"Its output is the mean of the outputs of {count} models. " if count > 1 else "",
        onnx=", `model.onnx` the network for ONNX runtimes" if onnx else "",
        metrics="\n".join(f"| {name} | {value} |" for name, value in metrics.items()),
        id=record.id,
        experiment=record.experiment,
        started=f"{record.started:%Y-%m-%d %H:%M}" if record.started else "",
        commit=f", commit {commit}{changes}" if commit else "",
    )
