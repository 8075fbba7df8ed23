"""How soon a search is as good as the official sweeper's best: 30 trials of five epochs, several seeds.

    python benchmarks/time_to_best.py [SEEDS]

Both search learning rate, dropout and width of the MLP with two workers and TPE. The official sweeper runs
its 30 trials in batches of two; ours may run twice as many, and stops counting when one of them has reached
the best validation accuracy of those 30. Needs feature01 built from full MNIST. The README has the table.
"""

import os
import sqlite3
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = [sys.executable, "src/model/model01/image_classifier_models.py", "-m"]
SPACE = [
    "learning_rate=tag(log,interval(0.0001,0.1))",
    "dropout=interval(0,0.5)",
    "hidden=choice(64,128,256)",
]
TRAINING = ["network=mlp", "trainer.accelerator=cpu", "max_epochs=5"]
TRIALS = 30
OFFICIAL = [
    *("hydra/sweeper=optuna", "hydra.sweeper.direction=maximize", "hydra.sweeper.n_jobs=2"),
    *("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"hydra.sweeper.n_trials={TRIALS}"),
]
OURS = ["hydra.sweeper.n_jobs=2", f"hydra.sweeper.n_trials={2 * TRIALS}"]


def validations(settings: list[str], seed: int) -> tuple[float, list[tuple[float, float]]]:
    """Seconds of the whole search, and of each validation the moment in seconds and its accuracy."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [*PROGRAM, *SPACE, *TRAINING, *settings, f"hydra.sweeper.sampler.seed={seed}"]
    began = time.time()
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{command} failed:\n{done.stderr[-2000:]}")
    seconds = time.time() - began
    with sqlite3.connect(ROOT / "logs" / "mlruns" / "mlflow.db") as store:
        query = "SELECT timestamp, value FROM metrics WHERE key = 'val_acc' AND timestamp > ? ORDER BY 1"
        rows = store.execute(query, (began * 1000,)).fetchall()
    return seconds, [(stamp / 1000 - began, value) for stamp, value in rows]


def reached(goal: float, found: list[tuple[float, float]]) -> float:
    """When the goal was first reached; infinite if it never was."""
    return min((moment for moment, value in found if value >= goal), default=float("inf"))


def main(seeds: int) -> None:
    print("| seed | best of 30, official | reached after | jikken reaches it after | ratio |")
    print("|---|---|---|---|---|")
    ratios = []
    for seed in range(seeds):
        _, theirs = validations(OFFICIAL, seed)
        _, ours = validations(OURS, seed)
        goal = max(value for _, value in theirs)
        then, now = reached(goal, theirs), reached(goal, ours)
        ratios.append(then / now)
        print(
            f"| {seed} | {goal:.4f} | {then:.0f} s | {now:.0f} s | {then / now:.2f} |", flush=True
        )
    print(f"\nmedian ratio: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
