"""The limit: the MLP of model01 in a plain PyTorch loop, with nothing tracked.

    python benchmarks/plain.py [EPOCHS]

The same model (784-256-256-10), batch size, optimizer, schedule, data and order of work as model01,
from the tensors of feature01. Prints the seconds of each epoch, training alone, and of its validation.
"""

import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

FILE = Path(__file__).resolve().parents[1] / "_data" / "feature" / "feature01" / "mnist.safetensors"
BATCH = 256


def trial(learning_rate: float, epochs: int = 1, steps: int | None = 39) -> float:
    """Train and validate once; returns the validation accuracy. `steps` shortens each epoch."""
    data = load_file(FILE)
    mean, std = float(data["mean"]), float(data["std"])

    def batch(split: str, index: Tensor) -> tuple[Tensor, Tensor]:
        return (data[f"{split}_images"][index].float() - mean) / std, data[f"{split}_labels"][index]

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 256),
        nn.ReLU(),
        nn.Dropout(0.25),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Dropout(0.25),
        nn.Linear(256, 10),
    )
    train, val = (torch.arange(len(data[f"{split}_labels"])) for split in ("train", "val"))
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=0.01, fused=True)
    steps = steps or -(-len(train) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=epochs * steps
    )
    accuracy = 0.0
    for epoch in range(epochs):
        began = time.perf_counter()
        model.train()
        losses, correct = torch.zeros(()), torch.zeros(())
        for index in train[torch.randperm(len(train))].split(BATCH)[:steps]:
            images, labels = batch("train", index)
            logits = model(images)
            loss = F.cross_entropy(logits, labels)
            losses += loss.detach() * len(labels)
            correct += (logits.argmax(1) == labels).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        seconds = time.perf_counter() - began
        model.eval()
        with torch.inference_mode():
            scored = (batch("val", index) for index in val.split(BATCH))
            accuracy = sum(int((model(x).argmax(1) == y).sum()) for x, y in scored) / len(val)
        print(f"epoch {epoch + 1}/{epochs}  val_acc {accuracy:.4f}  {seconds:.3f} s", flush=True)
    return accuracy


if __name__ == "__main__":
    trial(0.002, epochs=int(sys.argv[1]) if len(sys.argv) > 1 else 1, steps=None)
