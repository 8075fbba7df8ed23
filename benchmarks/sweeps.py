"""Sixteen trials of one pass over 10,000 images each: ours, the official sweeper, and plain Optuna.

    python benchmarks/sweeps.py [equal | unequal]

`equal` compares wall time, overhead a trial (beyond the plain loop's) and peak memory. `unequal` makes
every fourth trial five times as long, and compares two workers of ours with the official batches of two.
Needs feature01 built from full MNIST. One thread a worker everywhere. The README has the table.
"""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = [sys.executable, "src/model/model01/image_classifier_models.py"]
TRIALS = 16
PASS = [
    *("network=mlp", "trainer.accelerator=cpu", "max_epochs=1", "+trainer.limit_train_batches=39"),
    f"hydra.sweeper.n_trials={TRIALS}",
]
SPACE = "learning_rate=interval(0.001,0.002)"
# A grid of sixteen trials, every fourth of which is about five times as long as the others
UNEQUAL = [
    *("network=mlp", "trainer.accelerator=cpu", "max_epochs=12", "+trainer.limit_val_batches=4"),
    *("seed=0,1,2,3", "+trainer.limit_train_batches=30,31,32,200"),
]
OFFICIAL = ["hydra/sweeper=optuna", "hydra.sweeper.direction=maximize"]
OPTUNA = f"""
import sys; sys.path.insert(0, "benchmarks")
import optuna, plain, torch
torch.set_num_threads(1)
study = optuna.create_study(direction="maximize")
study.optimize(lambda trial: plain.trial(trial.suggest_float("learning_rate", 0.001, 0.002)), {TRIALS})
"""


def measured(command: list[str]) -> tuple[float, float]:
    """Seconds, and the peak of the memory of all its processes in GiB (shared pages count once)."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    began, peak, over = time.perf_counter(), [0.0], threading.Event()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    watcher = threading.Thread(target=watch, args=(psutil.Process(process.pid), peak, over))
    watcher.start()
    _, errors = process.communicate()
    seconds = time.perf_counter() - began
    over.set()
    watcher.join()
    if process.returncode != 0:
        raise SystemExit(f"{command} failed:\n{errors[-2000:]}")
    return seconds, peak[0]


def watch(root: psutil.Process, peak: list[float], over: threading.Event) -> None:
    while not over.wait(0.5):
        try:
            family = [root, *root.children(recursive=True)]
            peak[0] = max(peak[0], sum(one.memory_full_info().pss for one in family) / 2**30)
        except psutil.Error:  # one of them has just ended
            continue


def sweep(*settings: str) -> list[str]:
    return [*PROGRAM, "-m", *settings]


def main(kind: str) -> None:
    if kind == "unequal":
        rows = {
            "jikken, 2 workers": sweep(*UNEQUAL, "hydra.sweeper.n_jobs=2"),
            "official sweeper, joblib, 2 workers": sweep(
                *UNEQUAL,
                *OFFICIAL,
                "hydra/sweeper/sampler=grid",
                "hydra/launcher=joblib",
                "hydra.launcher.n_jobs=2",
                "hydra.sweeper.n_jobs=2",
            ),
        }
    else:
        rows = {
            "plain Optuna loop, 1 process": [sys.executable, "-c", OPTUNA],
            "jikken, 1 worker": sweep(
                SPACE, *PASS, "hydra.sweeper.n_jobs=1", "hydra/sweeper/pruner=none"
            ),
            "jikken, 2 workers": sweep(
                SPACE, *PASS, "hydra.sweeper.n_jobs=2", "hydra/sweeper/pruner=none"
            ),
            "official sweeper, in process": sweep(
                SPACE, *PASS, *OFFICIAL, "hydra/launcher=basic", "hydra.sweeper.n_jobs=1"
            ),
            "official sweeper, joblib, 2 workers": sweep(
                SPACE,
                *PASS,
                *OFFICIAL,
                "hydra/launcher=joblib",
                "hydra.launcher.n_jobs=2",
                "hydra.sweeper.n_jobs=2",
            ),
        }
    print(f"| {TRIALS} trials | wall | a trial | peak memory |\n|---|---|---|---|")
    for name, command in rows.items():
        seconds, memory = measured(command)
        print(
            f"| {name} | {seconds:.1f} s | {seconds / TRIALS:.2f} s | {memory:.2f} GiB |",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "equal")
