"""Least squares in NumPy on five folds: an experiment whose runs can be a group. Tests copy it.

python src/model/model93/folds.py folds=5
"""

import os
import signal
import time
from pathlib import Path
from typing import Literal

from src.utils.experiment import experiment
from src.utils.run import Run
from src.utils.settings import ModelSettings

import numpy as np
from pydantic import NonNegativeFloat, PositiveInt

SAMPLES, FEATURES, FOLDS = 200, 5, 5


class Config(ModelSettings):
    shrink: NonNegativeFloat
    noise: NonNegativeFloat
    epochs: PositiveInt
    case: Literal["", "fail", "die", "hang", "two", "none"]
    at: str  # the fold in which the case happens


def table() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples [N, 5], targets [N] and the fold of each row [N]; always the same."""
    random = np.random.default_rng(0)
    samples = random.normal(size=(SAMPLES, FEATURES))
    target = samples @ random.normal(size=FEATURES) + random.normal(size=SAMPLES)
    return samples, target, np.arange(SAMPLES) % FOLDS


def score(target: np.ndarray, prediction: np.ndarray) -> float:
    return float(np.sqrt(np.mean((target - prediction) ** 2)))


def load(folder: Path) -> np.ndarray:
    return np.load(folder / "weights.npy")


@experiment
def main(cfg: Config, run: Run) -> float | tuple[float, float] | None:
    run.objective("val_rmse", "min")
    run.tag({"pid": str(os.getpid())})
    if (
        cfg.case in ("fail", "die", "hang")
        and run.member
        and cfg.at == str(run.fold)
        and not run.resume_from
    ):
        run.save("weights.npy", lambda file: np.save(file.open("wb"), np.zeros(FEATURES)))
        misbehave(cfg.case)
    samples, target, fold = table()
    held_out = fold == run.fold
    x, y = samples[~held_out], target[~held_out]
    y = y + np.random.default_rng(cfg.seed).normal(scale=cfg.noise, size=len(y))
    weights = np.zeros(FEATURES)
    for epoch in range(1, cfg.epochs + 1):
        weights = np.linalg.solve(x.T @ x + cfg.shrink / epoch * np.eye(FEATURES), x.T @ y)
        rmse = score(target[held_out], samples[held_out] @ weights)
        run.log({"val_rmse": rmse}, epoch)
    run.save("weights.npy", lambda file: np.save(file.open("wb"), weights))
    if cfg.case == "none":
        return None
    return (rmse, float(np.abs(weights).sum())) if cfg.case == "two" else rmse


def misbehave(case: str) -> None:
    if case == "fail":
        raise ValueError("no luck")
    if case == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(300)


if __name__ == "__main__":
    main()
