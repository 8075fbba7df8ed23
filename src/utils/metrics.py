"""Loss and accuracy over an epoch, as plain sums: torchmetrics takes fifty times as long a step."""

import torch
from torch import Tensor
from torch import distributed as dist


class LossAndAccuracy:
    """Sums over the samples seen so far, on whatever device they come from."""

    def __init__(self) -> None:
        self.sums: tuple[Tensor, Tensor, int] | None = None  # loss [], correct [], count

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: its mean loss [], its logits [N, C] and its labels [N]."""
        count = len(labels)
        losses = loss.detach().float() * count
        correct = (logits.detach().argmax(1) == labels).sum()
        if self.sums is not None:
            before, right, seen = self.sums
            losses, correct, count = (
                before.to(losses) + losses,
                right.to(correct) + correct,
                seen + count,
            )
        self.sums = losses, correct, count

    def compute(self, split: str) -> dict[str, float]:
        """`{split}_loss` (nats) and `{split}_acc` (0 to 1) over all processes; then starts from zero."""
        assert self.sums is not None, "nothing was added"
        (losses, correct, count), self.sums = self.sums, None
        sums = torch.stack((losses, correct, torch.full_like(losses, count)))
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        loss, right, total = sums.tolist()
        return {f"{split}_loss": loss / total, f"{split}_acc": right / total}
