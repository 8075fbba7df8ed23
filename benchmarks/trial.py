"""What a trial costs beyond its own work: a model that does nothing is searched for twenty trials, one
after the other, in a clone of the repository.

    python benchmarks/trial.py [TRIALS]

A trial lasts from the moment its study gives it out until its value is there: a fork, composing its
settings, and everything that is tracked. The README has the figures.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import optuna

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = "src/model/nothing/nothing.py"
CODE = """
from src.utils.experiment import experiment
from src.utils.run import Run
from src.utils.settings import TrainingSettings


class Config(TrainingSettings):
    x: float


@experiment
def main(cfg: Config, run: Run) -> float:
    return cfg.x


if __name__ == "__main__":
    main()
"""
SETTINGS = "defaults: [/training, _self_]\nx: 0.5\n"


def main(trials: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "clone")
        subprocess.run(["git", "clone", "--quiet", ROOT, copy], check=True)
        for path, text in ((PROGRAM, CODE), ("config/model/nothing/config.yaml", SETTINGS)):
            (copy / path).parent.mkdir(parents=True)
            (copy / path).write_text(text)
        asked = ["x=interval(0,1)", f"hydra.sweeper.n_trials={trials}", "hydra.sweeper.n_jobs=1"]
        environment = {**os.environ, "PYTHONPATH": str(copy)}
        subprocess.run(
            [sys.executable, PROGRAM, "-m", *asked], cwd=copy, env=environment, check=True
        )
        storage = f"sqlite:///{copy}/logs/optuna/optuna.db"
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        ended = optuna.load_study(study_name=None, storage=storage).trials
        seconds = [one.duration.total_seconds() for one in ended]
    print(f"a trial: {median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f} s)")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:] or ["20"]))
