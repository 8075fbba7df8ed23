"""Training data that can say where they are, so that a stopped epoch goes on where it was.

Any DataLoader over map-style data, alone or in a list or a dict. The random states in which an epoch's
order was drawn are kept, and how many batches are out. Going on draws the order again and passes over
those batches: over their indices alone without workers; with workers they are loaded and dropped,
because each worker has a random state of its own, which only loading brings to where it was.
"""

import random
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import torch
from lightning_fabric.utilities.types import _Stateful
from pytorch_lightning.trainer.connectors.data_connector import _DataLoaderSource
from pytorch_lightning.utilities.combined_loader import _SUPPORTED_MODES, CombinedLoader
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data.dataloader import _SingleProcessDataLoaderIter

Generator = torch.Generator | np.random.Generator | random.Random
PARTS = ("sampler", "batch_sampler", "dataset")  # of a DataLoader, and of each other


class BatchStream(Iterator[Any]):
    """The batches of one loader. Its iterator is made with the first batch, and not before: what
    happens between, in hooks of the model, must not change the order."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.iterator: Iterator[Any] | None = None
        self.began: dict[str, Any] = {}  # the random states in which the iterator was made
        self.seen = 0  # batches that are out

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Self:
        self.iterator, self.seen = None, 0
        return self

    def __next__(self) -> Any:
        if self.iterator is None:
            self.began = {"random": random_state(), "own": generator_states(self.loader)}
            self.iterator = iter(self.loader)
        batch = next(self.iterator)
        self.seen += 1
        return batch

    def state(self) -> dict[str, Any]:
        """Where it is, as plain values."""
        place = self.loader.state_dict() if isinstance(self.loader, _Stateful) else None
        return {"began": self.began, "seen": self.seen, "place": place}

    def go_on(self, state: dict[str, Any], ahead: int) -> None:
        """Back to where it was; `ahead` of the batches seen were fetched, but not trained."""
        if not state["began"]:
            return
        self.began, self.seen = state["began"], state["seen"] - ahead
        set_random_state(self.began["random"])
        set_generator_states(self.loader, self.began["own"])
        if state["place"] is not None:
            self.loader.load_state_dict(state["place"])
        self.iterator = iter(self.loader)
        for _ in range(self.seen if state["place"] is None else 0):
            self._pass_over()

    def _pass_over(self) -> None:
        assert self.iterator is not None
        if isinstance(self.iterator, _SingleProcessDataLoaderIter) and is_map_style(self.loader):
            next(self.iterator._sampler_iter)
        else:
            next(self.iterator, None)


class ResumableLoader(CombinedLoader):
    """The training data as Lightning combines them."""

    kept: dict[str, Any] | None = None  # where to go on from, when the next batch is asked for
    late: dict[str, Any] | None = None  # random states, where that batch was fetched ahead

    def __iter__(self) -> Self:
        streams: list[Any] = [BatchStream(loader) for loader in self.flattened]
        self._iterator = iter(_SUPPORTED_MODES[self._mode]["iterator"](streams, self._limits))
        return self

    def __next__(self) -> Any:
        if self.kept is not None:
            kept, self.kept = self.kept, None
            self._go_on(kept)
        elif self.late is not None:
            set_random_state(self.late)
            self.late = None
        return super().__next__()

    def state(self, ahead: int = 0) -> dict[str, Any]:
        """Where each loader is, and the random states of now."""
        iterator = self._iterator
        return {
            "streams": [stream.state() for stream in getattr(iterator, "iterables", [])],
            "index": getattr(iterator, "_idx", 0),
            "consumed": list(getattr(iterator, "_consumed", [])),
            "ahead": ahead,
            "own": [generator_states(loader) for loader in self.flattened],
            "random": random_state(),
        }

    def set_random_states(self, state: dict[str, Any]) -> None:
        """To those of `state`, whatever has been drawn since the process began."""
        set_random_state(state["random"])
        for loader, own in zip(self.flattened, state["own"], strict=True):
            set_generator_states(loader, own)

    def _go_on(self, kept: dict[str, Any]) -> None:
        iterator: Any = self._iterator
        for stream, state in zip(iterator.iterables, kept["streams"], strict=True):
            stream.go_on(state, kept["ahead"])
        iterator._idx = kept["index"] - kept["ahead"]
        if hasattr(iterator, "_consumed"):
            iterator._consumed = kept["consumed"]
        self.set_random_states(kept)
        self.late = kept["random"] if kept["ahead"] else None

    def _state_dicts(self) -> list[dict[str, Any]]:
        """Nothing: Lightning's own way knows only loaders that keep a state themselves."""
        return []

    def _load_state_dicts(self, states: list[dict[str, Any]]) -> None:
        """Nothing, as above."""


class TrainingSource(_DataLoaderSource):
    """Where Lightning has the training loaders from: what it gets can say where it is."""

    def dataloader(self) -> ResumableLoader:
        loaders: Any = super().dataloader()
        if isinstance(loaders, CombinedLoader):
            return ResumableLoader(loaders.iterables, loaders._mode)
        return ResumableLoader(loaders, "max_size_cycle")  # Lightning's default


def is_map_style(loader: Any) -> bool:
    """Whether its batches are known by their indices before they are loaded."""
    return isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)


def inexact(loader: Any) -> str | None:
    """Why going on in the middle of an epoch may not train what would have been trained."""
    if isinstance(loader, _Stateful):
        return None
    if not is_map_style(loader):
        return (
            "data without indices and without a state_dict are read again from the epoch's beginning, "
            "as many batches as were trained are left out, and their order may be another"
        )
    if loader.num_workers and not loader.in_order:
        return "with in_order=False the workers decide on the order"
    if loader.persistent_workers:
        return (
            "random numbers drawn in persistent_workers begin anew (the order of the data does not)"
        )
    return None


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


# MERGED random_states: Random states as plain values: checkpoints hold no code.
#
# The global ones of torch, its GPUs, NumPy and Python, and the generators of a loader's own.
