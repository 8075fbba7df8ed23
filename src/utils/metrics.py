"""Loss and accuracy of an epoch, as plain sums: torchmetrics takes fifty times as long per step."""

import torch
from torch import Tensor
from torch import distributed as dist


class LossAndAccuracy:
    """Mean loss and accuracy over the samples of an epoch: `update` per batch, `compute` at the end."""

    def __init__(self) -> None:
        self.sums: tuple[Tensor, Tensor, int] | None = None  # loss [], correct [], samples

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: its mean loss [], its logits [N, C] and its labels [N], on any device."""
        samples = len(labels)
        loss_sum = loss.detach().float() * samples
        correct = (logits.detach().argmax(1) == labels).sum()
        if self.sums is not None:
            old_loss_sum, old_correct, old_samples = self.sums
            loss_sum = old_loss_sum.to(loss_sum) + loss_sum
            correct = old_correct.to(correct) + correct
            samples += old_samples
        self.sums = loss_sum, correct, samples

    def compute(self, split: str) -> dict[str, float]:
        """Return the metrics over all processes, and reset the sums.

        Returns:
            `{split}_loss`, in nats, and `{split}_acc`, from 0 to 1.
        """
        assert self.sums is not None, "compute was called without an update"
        (loss_sum, correct, samples), self.sums = self.sums, None
        sums = torch.stack((loss_sum, correct, torch.full_like(loss_sum, samples)))
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        total_loss, total_correct, total = sums.tolist()
        return {f"{split}_loss": total_loss / total, f"{split}_acc": total_correct / total}
