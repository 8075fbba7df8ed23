"""Loads the model of this folder with torch alone; Lightning is used where it is installed.

    python load.py                              says what the model is
    from load import load; model = load()

`lab export` puts this file as load.py into each folder that it makes.
"""

import importlib.util
import inspect
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
LIGHTNING = ("pytorch_lightning", "lightning", "lightning.pytorch")
TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def load(device: str = "cpu") -> nn.Module:
    """The model, in eval mode."""
    about = json.loads((HERE / "model.json").read_text())
    kind = _class(about["module"], about["class"], about["hyperparameters"])
    model: nn.Module = kind(**_accepted(kind, about["hyperparameters"]))
    model.load_state_dict(read_weights(HERE / "model.safetensors"))
    return model.to(device).eval()


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file: 8 bytes of length, a JSON header, then raw values."""
    content = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    return {name: _tensor(content, start, **entry) for name, entry in header.items()}


def _tensor(
    content: bytearray, start: int, dtype: str, shape: list[int], data_offsets: list[int]
) -> Tensor:
    kind = TYPES[dtype]
    begin, end = data_offsets
    if begin == end:
        return torch.empty(shape, dtype=kind)
    count = (end - begin) // kind.itemsize
    values = torch.frombuffer(content, dtype=kind, count=count, offset=start + begin)
    return values.reshape(shape).clone()


def _class(module: str, name: str, hyperparameters: dict[str, Any]) -> type[nn.Module]:
    """The model's class, from the code in this folder and under a name that nothing else has."""
    lightning = importlib.util.find_spec("pytorch_lightning") is not None
    if not lightning:
        sys.modules |= {name: _stand_in(hyperparameters) for name in LIGHTNING}
    try:
        found: type[nn.Module] = getattr(_module(module), name)
    finally:
        if not lightning:
            for stand_in in LIGHTNING:
                del sys.modules[stand_in]
    return found


def _module(name: str) -> ModuleType:
    package = f"exported_{HERE.name}".replace(".", "_")
    spec = importlib.util.spec_from_file_location(
        package, HERE / "code" / "__init__.py", submodule_search_locations=[str(HERE / "code")]
    )
    assert spec is not None and spec.loader is not None
    sys.modules[package] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[package])
    return importlib.import_module(f"{package}.{name}")


def _accepted(kind: type, hyperparameters: dict[str, Any]) -> dict[str, Any]:
    """Those that the class asks for."""
    parameters = inspect.signature(kind).parameters
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return hyperparameters
    return {name: value for name, value in hyperparameters.items() if name in parameters}


class Hyperparameters(dict[str, Any]):
    """By key and by attribute, as Lightning has them."""

    __getattr__ = dict.__getitem__


def _stand_in(hyperparameters: dict[str, Any]) -> ModuleType:
    """What a ready model needs of Lightning."""

    class LightningModule(nn.Module):
        hparams = Hyperparameters(hyperparameters)

        def save_hyperparameters(self, *_: Any, **__: Any) -> None: ...

        @property
        def device(self) -> torch.device:
            return next(self.parameters()).device

    class StandIn(ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return object  # a base class or an annotation

    module = StandIn("pytorch_lightning")
    module.__dict__["LightningModule"] = LightningModule
    return module


if __name__ == "__main__":
    ready = load()
    print(ready)
    print(f"{sum(one.numel() for one in ready.parameters()):,} parameters; see README.md")
