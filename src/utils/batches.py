"""Batches of tensors in memory: one index operation per batch instead of one per sample.

`batch_loader(images, labels, batch_size=256, shuffle=True)` is a DataLoader of whole batches.
"""

from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

Batch = tuple[Tensor, ...]
T = TypeVar("T")


def batch_loader(*tensors: Tensor, batch_size: int, shuffle: bool = False) -> DataLoader[Batch]:
    """Make a DataLoader whose batches are a tuple with one tensor [B, …] of each of `tensors` [N, …].

    It shuffles by the run's seed. Lightning's samplers for DDP work as with any DataLoader.

    Raises:
        ValueError: the tensors have different lengths.
    """
    dataset, generator = (
        TensorBatches(*tensors),
        torch.Generator().manual_seed(torch.initial_seed()),
    )
    sampler = RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)
    batches = IndexBatches(sampler, batch_size, drop_last=False)
    return DataLoader(dataset, batch_sampler=batches, collate_fn=_identity, generator=generator)


def _identity(batch: T) -> T:
    """A function of this module, because workers can't unpickle a lambda."""
    return batch


class TensorBatches(Dataset[Batch]):
    """A dataset of tensors with the same first dimension; indices [B] give a batch."""

    def __init__(self, *tensors: Tensor) -> None:
        if len({len(tensor) for tensor in tensors}) != 1:
            raise ValueError(f"tensors of different lengths: {[len(t) for t in tensors]}")
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: int) -> Batch:
        return tuple(tensor[index] for tensor in self.tensors)

    def __getitems__(self, indices: Tensor) -> Batch:
        """A whole batch, on the device of the tensors. DataLoader calls this where it is defined."""
        on_device = torch.as_tensor(indices, device=self.tensors[0].device)
        return tuple(tensor.index_select(0, on_device) for tensor in self.tensors)


class IndexBatches(BatchSampler):
    """A BatchSampler whose batches are tensors: lists of indices would have to be converted."""

    def __iter__(self) -> Iterator[Tensor]:  # type: ignore[override]  # lists in the parent
        indices = torch.tensor(list(self.sampler), dtype=torch.long)
        for batch in torch.split(indices, self.batch_size):
            if len(batch) >= (self.batch_size if self.drop_last else 1):
                yield batch
