"""Batches straight from memory: one index operation a batch, instead of one a sample."""

from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

Batch = tuple[Tensor, ...]
T = TypeVar("T")


class TensorBatches(Dataset[Batch]):
    """Tensors that share their first dimension; a tensor of indices [B] gives a batch of each."""

    def __init__(self, *tensors: Tensor) -> None:
        if len({len(tensor) for tensor in tensors}) != 1:
            raise ValueError(f"tensors of different lengths: {[len(t) for t in tensors]}")
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: int) -> Batch:
        return tuple(tensor[index] for tensor in self.tensors)

    def __getitems__(self, indices: Tensor) -> Batch:
        """What DataLoader calls where it exists: the whole batch at once, on the tensors' device."""
        picked = torch.as_tensor(indices, device=self.tensors[0].device)
        return tuple(tensor.index_select(0, picked) for tensor in self.tensors)


class IndexBatches(BatchSampler):
    """The same batches as its parent's, as tensors: a list for each would have to be converted."""

    def __iter__(self) -> Iterator[Tensor]:  # type: ignore[override]  # indices, all the same
        indices = torch.tensor(list(self.sampler), dtype=torch.long)
        for batch in torch.split(indices, self.batch_size):
            if len(batch) >= (self.batch_size if self.drop_last else 1):
                yield batch


class BatchLoader(DataLoader[Batch]):
    """A standard DataLoader that remembers where it was: Lightning keeps its state in checkpoints,
    and an epoch that was interrupted goes on with the batches it has not seen."""

    seen = 0  # batches of the epoch that are out
    skip = 0  # … and those that a resumed epoch has had before

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # any iterator will do
        self.began = self.generator.get_state()
        skip, self.skip = self.skip, 0
        for self.seen, batch in enumerate(super().__iter__(), start=1):
            if self.seen > skip:
                yield batch

    def state_dict(self) -> dict[str, Any]:
        """Between two epochs: the generator as it is; within one: as it was when the epoch began."""
        between = self.seen in (0, len(self))
        state = self.generator.get_state() if between else self.began
        return {"generator": state, "seen": 0 if between else self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"])
        self.skip = state["seen"]


def batch_loader(*tensors: Tensor, batch_size: int, shuffle: bool = False) -> BatchLoader:
    """A loader of whole batches; samplers and DDP work as ever. Shuffles by the run's seed."""
    data, generator = TensorBatches(*tensors), torch.Generator().manual_seed(torch.initial_seed())
    order = RandomSampler(data, generator=generator) if shuffle else SequentialSampler(data)
    batches = IndexBatches(order, batch_size, drop_last=False)
    return BatchLoader(data, batch_sampler=batches, collate_fn=_as_it_is, generator=generator)


def _as_it_is(batch: T) -> T:
    return batch
