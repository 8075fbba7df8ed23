"""Batches straight from memory: one index operation a batch, instead of one a sample."""

from collections.abc import Iterator
from typing import TypeVar

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


def batch_loader(*tensors: Tensor, batch_size: int, shuffle: bool = False) -> DataLoader[Batch]:
    """A loader of whole batches; samplers and DDP work as ever. Shuffles by the run's seed."""
    data, generator = TensorBatches(*tensors), torch.Generator().manual_seed(torch.initial_seed())
    order = RandomSampler(data, generator=generator) if shuffle else SequentialSampler(data)
    batches = IndexBatches(order, batch_size, drop_last=False)
    return DataLoader(data, batch_sampler=batches, collate_fn=_as_it_is, generator=generator)


def _as_it_is(batch: T) -> T:
    return batch
