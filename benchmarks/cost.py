"""What the scaffold costs beside plain PyTorch: questions, first step, epoch, step metrics, whole run.

    python benchmarks/cost.py [REPEATS]

Each figure is the median of REPEATS (5) runs of the two commands in turn, so that both meet the same
machine. Needs feature01 built from full MNIST. The README beside this file has the table.
"""

import os
import re
import resource
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = [sys.executable, "src/model/model01/image_classifier_models.py"]
MLP = ["network=mlp", "trainer.accelerator=cpu"]
IMPORTS = (
    "import time; began = time.perf_counter(); import torch, pytorch_lightning, mlflow; "
    "torch.optim.AdamW(torch.nn.Linear(1, 1).parameters()); print(time.perf_counter() - began)"
)


def output(command: list[str]) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout


def wall(command: list[str]) -> float:
    began = time.perf_counter()
    output(command)
    return time.perf_counter() - began


def cpu(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    output(command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def first_step() -> float:
    """From the command to the end of its first training step, by the time stamp of that step's loss."""
    began = time.time()
    output(
        [
            *PROGRAM,
            *MLP,
            "max_epochs=1",
            "trainer.log_every_n_steps=1",
            "+trainer.limit_train_batches=2",
        ]
    )
    with sqlite3.connect(ROOT / "logs" / "mlruns" / "mlflow.db") as store:
        newest = "SELECT run_uuid FROM runs ORDER BY start_time DESC LIMIT 1"
        query = f"SELECT min(timestamp) FROM metrics WHERE key='train_loss_step' AND run_uuid=({newest})"
        (stamp,) = store.execute(query).fetchone()
    return float(stamp) / 1000 - began


def epoch_seconds(command: list[str]) -> float:
    """Of the fastest epoch, training alone."""
    return min(float(seconds) for seconds in re.findall(r"  ([\d.]+) s", output(command)))


def pair(what: str, ours: Callable[[], float], theirs: Callable[[], float], repeats: int) -> None:
    both = [(ours(), theirs()) for _ in range(repeats)]
    mine, limit = (statistics.median(column) for column in zip(*both, strict=True))
    ratio = statistics.median(one / other for one, other in both)
    print(f"| {what} | {mine:.3f} s | {limit:.3f} s | {ratio:.2f} |", flush=True)


def main(repeats: int) -> None:
    plain = [sys.executable, "benchmarks/plain.py"]
    print("| what | jikken | limit | ratio |\n|---|---|---|---|")
    for question in (["--help"], ["--cfg", "job"]):
        seconds = statistics.median(cpu([*PROGRAM, *question]) for _ in range(repeats))
        print(f"| {' '.join(question)}, CPU time | {seconds:.3f} s | | |", flush=True)
    imports = [sys.executable, "-c", IMPORTS]
    pair(
        "first training step / imports and optimizer alone",
        first_step,
        lambda: wall(imports),
        repeats,
    )
    epochs = [*PROGRAM, *MLP, "max_epochs=6"]
    pair("epoch", lambda: epoch_seconds(epochs), lambda: epoch_seconds([*plain, "6"]), repeats)
    often = [*epochs, "trainer.log_every_n_steps=1"]
    never = [*epochs, "trainer.log_every_n_steps=0"]
    pair(
        "epoch with metrics of every step / of none",
        lambda: epoch_seconds(often),
        lambda: epoch_seconds(never),
        repeats,
    )
    once = [*PROGRAM, *MLP, "max_epochs=1"]
    pair("one epoch, command to prompt", lambda: wall(once), lambda: wall([*plain, "1"]), repeats)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
