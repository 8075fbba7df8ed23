"""By how much uploads slow a training down: the same loop with and without them, in turn.

    python benchmarks/uploads.py http://127.0.0.1:5000 10     # an MLflow server that keeps artifacts; pairs

A training saves a checkpoint of 5 MB every 5 steps. Half of the time a thread uploads it, once in 15 seconds
as in a run. Server and training should have cores of their own; where others want them, trust the CPU time.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

from src.utils.files import replace_file
from src.utils.runs import uploads
from src.utils.store.mlflow import experiment_id

import torch
from mlflow.tracking import MlflowClient
from torch import nn

PHASE = uploads.BETWEEN_UPLOADS  # seconds: one upload
EVERY = 5  # steps


class Training:
    """Trains an MLP on noise, and saves its state and that of Adam."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "checkpoints" / "last.ckpt"
        self.network = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 10))
        self.optimizer = torch.optim.Adam(self.network.parameters())
        self.batch, self.step = torch.randn(256, 784), 0

    def cost(self, seconds: float) -> tuple[float, float]:
        """Train for some seconds; returns the time of a step, and its CPU time in all threads."""
        start, cpu, first = time.monotonic(), time.process_time(), self.step
        while (spent := time.monotonic() - start) < seconds:
            self.optimizer.zero_grad()
            self.network(self.batch).square().mean().backward()
            self.optimizer.step()
            self.step += 1
            if self.step % EVERY == 0:
                with replace_file(self.file) as draft:
                    torch.save([self.network.state_dict(), self.optimizer.state_dict()], draft)
        steps = self.step - first
        return spent / steps, (time.process_time() - cpu) / steps


def main(uri: str, pairs: int) -> None:
    """Print each pair, and the medians of their ratios."""
    client, ratios = MlflowClient(uri), []
    run = client.create_run(experiment_id(client, "benchmark/uploads")).info.run_id
    with tempfile.TemporaryDirectory() as folder:
        training = Training(Path(folder))
        training.cost(2)
        for _ in range(pairs):
            without = training.cost(PHASE)
            uploading = uploads.Uploads(client, run, Path(folder))
            uploading.start()
            with_uploads = training.cost(PHASE)
            uploading.finish(is_stopped=False)
            ratios.append([new / old for new, old in zip(with_uploads, without, strict=True)])
            print("time {:.3f}, CPU time {:.3f}".format(*ratios[-1]), flush=True)
    client.set_terminated(run)
    times, cpu_times = map(statistics.median, zip(*ratios, strict=True))
    print(f"median: time {times:.3f}, CPU time {cpu_times:.3f}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
