"""Batches straight from memory: one index operation a batch, instead of one a sample."""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

Batch = tuple[Tensor, ...]
T = TypeVar("T")


class TensorBatches(Dataset[Batch]):
    """Tensors that share their first dimension; a list of indices gives a batch of each."""

    def __init__(self, *tensors: Tensor) -> None:
        if len({len(tensor) for tensor in tensors}) != 1:
            raise ValueError(f"tensors of different lengths: {[len(t) for t in tensors]}")
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: int) -> Batch:
        return tuple(tensor[index] for tensor in self.tensors)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """What DataLoader calls where it exists: the whole batch at once, on the tensors' device."""
        picked = torch.as_tensor(indices, device=self.tensors[0].device)
        return tuple(tensor[picked] for tensor in self.tensors)


def batch_loader(*tensors: Tensor, batch_size: int, shuffle: bool = False) -> DataLoader[Batch]:
    """A standard DataLoader of whole batches: samplers, DDP and resuming work as ever."""
    data = TensorBatches(*tensors)
    return DataLoader(data, batch_size=batch_size, shuffle=shuffle, collate_fn=_as_it_is)


def _as_it_is(batch: T) -> T:
    return batch
