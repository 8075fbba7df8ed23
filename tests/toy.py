"""An experiment that trains nothing: it sleeps, and ends as its settings say. Tests of sweeps copy it.

python src/model/model90/toy.py -m 'x=interval(0,1)'
"""

import ctypes
import os
import signal
import time
from typing import Literal

from src.utils.experiment import experiment
from src.utils.run import Run
from src.utils.settings import TrainingSettings


class Config(TrainingSettings):
    x: float
    y: Literal["low", "middle", "high"]
    seconds: float
    end: Literal[
        "value", "values", "raise", "undefined", "none", "exit", "segfault", "kill", "hang"
    ]


@experiment
def main(cfg: Config, run: Run):
    names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
    run.tag({name: os.environ.get(name, "") for name in names} | {"pid": str(os.getpid())})
    time.sleep(cfg.seconds)
    match cfg.end:
        case "values":
            return cfg.x, 1 - cfg.x
        case "raise":
            raise ValueError("x makes no sense")
        case "undefined":
            return float("nan")
        case "none":
            return None
        case "exit":
            os._exit(3)
        case "segfault":
            ctypes.string_at(0)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            time.sleep(600)
    return (cfg.x - 0.3) ** 2


def extend(cfg, trial):
    """A search space that depends on what was chosen: y only matters where x is small."""
    if trial.params["x"] < 0.5:
        trial.suggest_categorical("y", ["low", "high"])


if __name__ == "__main__":
    main()
