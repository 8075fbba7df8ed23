"""Random states as plain values: checkpoints hold no code.

The global ones of torch, its GPUs, NumPy and Python, and the generators of a loader's own.
"""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

Generator = torch.Generator | np.random.Generator | random.Random
PARTS = ("sampler", "batch_sampler", "dataset")  # of a DataLoader, and of each other


def random_state() -> dict[str, Any]:
    """Of torch, its GPUs, NumPy and Python."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
        "numpy": _plain(np.random.get_state(legacy=False)),  # noqa: NPY002  # what libraries use
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """The GPUs' only where there are as many as there were."""
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    np.random.set_state(_arrays(state["numpy"]))  # noqa: NPY002  # as above
    random.setstate(state["python"])


def generator_states(loader: Any) -> list[Any]:
    """Of all generators that a loader, its samplers and its dataset have of their own."""
    return [_state(generator) for generator in _generators(loader, set())]


def set_generator_states(loader: Any, states: list[Any]) -> None:
    """The same loader in another process has the same generators in the same order."""
    for generator, state in zip(_generators(loader, set()), states, strict=True):
        if isinstance(generator, torch.Generator):
            generator.set_state(state)
        elif isinstance(generator, np.random.Generator):
            generator.bit_generator.state = _arrays(state)
        else:
            generator.setstate(state)


def _generators(thing: Any, seen: set[int]) -> Iterator[Generator]:
    for name, value in getattr(thing, "__dict__", {}).items():
        if id(value) in seen:
            continue
        if isinstance(value, Generator):
            seen.add(id(value))
            yield value
        elif name in PARTS:
            seen.add(id(value))
            yield from _generators(value, seen)


def _state(generator: Generator) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return _plain(generator.bit_generator.state)
    return generator.getstate()


def _plain(value: Any) -> Any:
    """NumPy's arrays as tensors."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value


def _arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _arrays(one) for key, one in value.items()}
    return value.numpy() if isinstance(value, torch.Tensor) else value
