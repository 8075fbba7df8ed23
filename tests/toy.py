"""An experiment that trains nothing: it sleeps, and ends as the setting `end` says. Tests of sweeps copy it.

python src/model/model90/toy.py -m 'x=interval(0,1)'
"""

import ctypes
import multiprocessing
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
        "value",
        "values",
        "number",
        "tensor",
        "array",
        "pruned",
        "lost",
        "workers",
        "raise",
        "undefined",
        "none",
        "exit",
        "segfault",
        "kill",
        "hang",
    ]


@experiment
def main(cfg: Config, run: Run):
    names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
    run.tag({name: os.environ.get(name, "") for name in names} | {"pid": str(os.getpid())})
    time.sleep(cfg.seconds)
    match cfg.end:
        case "values":
            return cfg.x, 1 - cfg.x
        case "number" | "tensor" | "array":
            return number(cfg.x, cfg.end)
        case "pruned":
            prune(run, cfg.x)
        case "lost":
            lose(run)
        case "workers":
            return batches(run)
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


def number(x: float, kind: str):
    """A number of NumPy or torch."""
    import numpy as np
    import torch

    return {"number": np.float32, "tensor": torch.tensor, "array": lambda x: np.array([x])}[kind](x)


def prune(run: Run, x: float):
    """Report and raise as the callback of another library does."""
    import optuna

    for step in range(50):
        run.trial.open().report(x, step)
    raise optuna.TrialPruned("not worth it")


def lose(run: Run):
    """Fail the trial, as another process does that takes it for lost."""
    from optuna.trial import TrialState

    run.trial.open().storage.set_trial_state_values(run.trial.trial_id, TrialState.FAIL)


def batches(run: Run):
    """Load batches in two processes, with a function that can't be pickled; returns their sum."""
    from torch.utils.data import DataLoader

    run.tag({"start_method": multiprocessing.get_start_method()})
    data = DataLoader(
        range(8), batch_size=4, num_workers=2, collate_fn=lambda batch: sum(batch) + 1
    )
    return sum(data)


def extend(cfg, trial):
    """A custom search space: suggests y where x is small."""
    if trial.params["x"] < 0.5:
        trial.suggest_categorical("y", ["low", "high"])


if __name__ == "__main__":
    main()
