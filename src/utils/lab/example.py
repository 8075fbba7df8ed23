"""What a model is called with, as `lab export` tries it: positional and named inputs, batched."""

from dataclasses import dataclass
from typing import Any

from src.utils.errors import UserError

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.export import Dim
from torch.utils._pytree import tree_leaves, tree_map


@dataclass(frozen=True)
class Example:
    """`model(*args, **kwargs)`: tensors, or anything that holds tensors."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @classmethod
    def of(cls, model: LightningModule, sample: str) -> "Example":
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

    def of_size(self, count: int) -> "Example":
        """The same with `count` samples, each the first one."""

        def sized(value: Any) -> Any:
            return torch.cat([value[:1]] * count) if self._is_batched(value) else value

        args, kwargs = tree_map(sized, (self.args, self.kwargs))
        return Example(args, kwargs)

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
