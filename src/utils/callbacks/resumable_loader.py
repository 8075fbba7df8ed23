"""Training data that resume within an epoch, from the batch after the last one that was trained.

This works for any DataLoader over a map-style dataset, alone or in a list or a dict. A checkpoint holds the
random states in which the order of the epoch was drawn, and the number of batches that were fetched. When
the run is resumed, the order is drawn again, and these batches are skipped:

- without workers only their indices are drawn;
- with workers they are loaded and dropped. Each worker has a random state of its own, and only loading
  brings it to where it was.

Random states are stored as tensors and plain values, because checkpoints hold no code.
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
PARTS = ("sampler", "batch_sampler", "dataset")  # attributes that may have generators of their own


class TrainingSource(_DataLoaderSource):
    """Where Lightning gets the training loaders from: it combines them in a ResumableLoader."""

    def dataloader(self) -> "ResumableLoader":
        loaders: Any = super().dataloader()
        if isinstance(loaders, CombinedLoader):
            return ResumableLoader(loaders.iterables, loaders._mode)
        return ResumableLoader(loaders, "max_size_cycle")  # Lightning's default


class ResumableLoader(CombinedLoader):
    """Lightning's combination of the training loaders, with a state to resume from."""

    stored: dict[str, Any] | None = None  # the state to resume from, at the next batch
    stored_random_state: dict[str, Any] | None = (
        None  # to restore after a batch that was prefetched
    )

    def __iter__(self) -> Self:
        streams: list[Any] = [BatchStream(loader) for loader in self.flattened]
        self._iterator = iter(_SUPPORTED_MODES[self._mode]["iterator"](streams, self._limits))
        return self

    def __next__(self) -> Any:
        if self.stored is not None:
            stored, self.stored = self.stored, None
            self._resume(stored)
        elif self.stored_random_state is not None:
            set_random_state(self.stored_random_state)
            self.stored_random_state = None
        return super().__next__()

    def state(self, prefetched: int = 0) -> dict[str, Any]:
        """The position of each loader, and the current random states.

        Args:
            prefetched: the number of batches that were fetched, but not trained yet.
        """
        iterator = self._iterator
        return {
            "streams": [stream.state() for stream in getattr(iterator, "iterables", [])],
            "index": getattr(iterator, "_idx", 0),
            "consumed": list(getattr(iterator, "_consumed", [])),
            "ahead": prefetched,
            "own": [generator_states(loader) for loader in self.flattened],
            "random": random_state(),
        }

    def set_random_states(self, state: dict[str, Any]) -> None:
        """Restore the random states of the process and of the loaders."""
        set_random_state(state["random"])
        for loader, own in zip(self.flattened, state["own"], strict=True):
            set_generator_states(loader, own)

    def _resume(self, stored: dict[str, Any]) -> None:
        iterator: Any = self._iterator
        prefetched = stored["ahead"]
        for stream, state in zip(iterator.iterables, stored["streams"], strict=True):
            stream.resume(state, prefetched)
        iterator._idx = stored["index"] - prefetched
        if hasattr(iterator, "_consumed"):
            iterator._consumed = stored["consumed"]
        self.set_random_states(stored)
        self.stored_random_state = stored["random"] if prefetched else None

    def _state_dicts(self) -> list[dict[str, Any]]:
        """Empty: Lightning's own states are for loaders with a `state_dict` only."""
        return []

    def _load_state_dicts(self, states: list[dict[str, Any]]) -> None:
        """Do nothing, as above."""


class BatchStream(Iterator[Any]):
    """The batches of one loader, with a position to resume from.

    The iterator of the loader is made when the first batch is fetched. Hooks of the model that run before
    may draw random numbers, and must not change the order.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.iterator: Iterator[Any] | None = None
        self.start: dict[str, Any] = {}  # the random states in which the iterator was made
        self.fetched = 0  # batches

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Self:
        self.iterator, self.fetched = None, 0
        return self

    def __next__(self) -> Any:
        if self.iterator is None:
            self.start = {"random": random_state(), "own": generator_states(self.loader)}
            self.iterator = iter(self.loader)
        batch = next(self.iterator)
        self.fetched += 1
        return batch

    def state(self) -> dict[str, Any]:
        """The position, as tensors and plain values; "place" is the state of a loader that has one."""
        place = self.loader.state_dict() if isinstance(self.loader, _Stateful) else None
        return {"began": self.start, "seen": self.fetched, "place": place}

    def resume(self, state: dict[str, Any], prefetched: int) -> None:
        """Return to a stored position, less the batches that were prefetched but not trained."""
        if not state["began"]:
            return
        self.start, self.fetched = state["began"], state["seen"] - prefetched
        set_random_state(self.start["random"])
        set_generator_states(self.loader, self.start["own"])
        if state["place"] is not None:
            self.loader.load_state_dict(state["place"])
        self.iterator = iter(self.loader)
        for _ in range(self.fetched if state["place"] is None else 0):
            self._skip_batch()

    def _skip_batch(self) -> None:
        assert self.iterator is not None
        if isinstance(self.iterator, _SingleProcessDataLoaderIter) and is_map_style(self.loader):
            next(self.iterator._sampler_iter)
        else:
            next(self.iterator, None)


def is_map_style(loader: Any) -> bool:
    """Whether a loader draws the indices of a batch before it loads the samples."""
    return isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)


def inexact_reason(loader: Any) -> str | None:
    """Why a training with this loader may not resume exactly within an epoch; None if it does."""
    if isinstance(loader, _Stateful):
        return None
    if not is_map_style(loader):
        return (
            "data without indices and without a state_dict are read again from the start of the epoch, "
            "as many batches as were trained are skipped, and their order may differ"
        )
    if loader.num_workers and not loader.in_order:
        return "with in_order=False the workers decide the order"
    if loader.persistent_workers:
        return (
            "random numbers drawn in persistent_workers start anew (the order of the data does not)"
        )
    return None


def random_state() -> dict[str, Any]:
    """The global random states of torch, its GPUs if they are in use, NumPy and Python."""
    is_used: Any = torch.cuda.is_initialized  # it has no types
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if is_used() else [],
        "numpy": _to_tensors(np.random.get_state(legacy=False)),  # noqa: NPY002  # libraries use it
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore the global random states; those of the GPUs only if there are as many GPUs as before."""
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    np.random.set_state(_to_arrays(state["numpy"]))  # noqa: NPY002  # as above
    random.setstate(state["python"])


def generator_states(loader: Any) -> list[Any]:
    """The states of all generators that a loader, its samplers and its dataset have of their own."""
    return [_generator_state(generator) for generator in _generators(loader, set())]


def set_generator_states(loader: Any, states: list[Any]) -> None:
    """Restore them: the same loader in another process has the same generators in the same order."""
    for generator, state in zip(_generators(loader, set()), states, strict=True):
        if isinstance(generator, torch.Generator):
            generator.set_state(state)
        elif isinstance(generator, np.random.Generator):
            generator.bit_generator.state = _to_arrays(state)
        else:
            generator.setstate(state)


def _generators(owner: Any, visited: set[int]) -> Iterator[Generator]:
    for name, value in getattr(owner, "__dict__", {}).items():
        if id(value) in visited:
            continue
        if isinstance(value, Generator):
            visited.add(id(value))
            yield value
        elif name in PARTS:
            visited.add(id(value))
            yield from _generators(value, visited)


def _generator_state(generator: Generator) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return _to_tensors(generator.bit_generator.state)
    return generator.getstate()


def _to_tensors(value: Any) -> Any:
    """Replace NumPy's arrays, which `weights_only=True` does not load."""
    if isinstance(value, dict):
        return {key: _to_tensors(part) for key, part in value.items()}
    return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value


def _to_arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _to_arrays(part) for key, part in value.items()}
    return value.numpy() if isinstance(value, torch.Tensor) else value
