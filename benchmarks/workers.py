"""What a DataLoader's worker costs in a trial, beside the same program run alone: a pass over 64 batches
with one worker, in a clone of the repository.

    python benchmarks/workers.py
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = "src/model/workers/workers.py"
CODE = """
import time

from src.utils.experiment import experiment
from src.utils.run import Run
from src.utils.settings import TrainingSettings

import torch
from torch.utils.data import DataLoader


class Config(TrainingSettings):
    x: float


@experiment
def main(cfg: Config, run: Run) -> float:
    began = time.monotonic()
    for batch in DataLoader(torch.rand(4096, 784), batch_size=64, num_workers=1):
        batch.mean()
    with open("seconds", "w") as file:
        file.write(str(time.monotonic() - began))
    return 0.0


if __name__ == "__main__":
    main()
"""
SETTINGS = "defaults: [/training, _self_]\nx: 0.5\n"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "clone")
        subprocess.run(["git", "clone", "--quiet", ROOT, copy], check=True)
        for path, text in ((PROGRAM, CODE), ("config/model/workers/config.yaml", SETTINGS)):
            (copy / path).parent.mkdir(parents=True)
            (copy / path).write_text(text)
        alone, trial = seconds(copy), seconds(copy, "-m", "x=choice(1)")
    print(f"alone {alone:.2f} s, in a trial {trial:.2f} s: {trial / alone:.2f} times")


def seconds(copy: Path, *arguments: str) -> float:
    """Of the pass, as the program itself measures it."""
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    command = [sys.executable, PROGRAM, *arguments]
    subprocess.run(command, cwd=copy, env=environment, check=True, stdout=subprocess.DEVNULL)
    return float((copy / "seconds").read_text())


if __name__ == "__main__":
    main()
