"""A logistic regression in NumPy: an experiment without torch and Lightning. Tests copy it.

python src/model/model92/logistic.py
"""

# ruff: noqa: NPY002  the setting `seed` seeds NumPy's global generator
import os
import signal
import sys
from pathlib import Path
from typing import Literal

from src.utils.experiment import experiment
from src.utils.run import Run
from src.utils.settings import ModelSettings

import numpy as np
from pydantic import PositiveFloat, PositiveInt
from threadpoolctl import threadpool_info

SAMPLES, FEATURES = 400, 8


class Config(ModelSettings):
    rate: PositiveFloat
    epochs: PositiveInt
    case: Literal["", "name", "nothing", "mode", "silent", "two"]


class Logistic:
    """Probabilities of a class from samples [N, 8]."""

    def __init__(self, weights: np.ndarray) -> None:
        self.weights = weights

    def predict(self, samples: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-samples @ self.weights))

    def loss(self, samples: np.ndarray, labels: np.ndarray) -> float:
        right = np.abs(1 - labels - self.predict(samples))
        return float(-np.log(right + 1e-9).mean())


def load(folder: Path) -> Logistic:
    """The model of a run; `load_model` calls it."""
    return Logistic(np.load(folder / "state.npz")["weights"])


@experiment
def main(cfg: Config, run: Run) -> float | tuple[float, float]:
    if cfg.case != "silent":
        run.objective("val_loss", "best" if cfg.case == "mode" else "min")
    truth = np.random.normal(size=FEATURES)
    samples = np.random.normal(size=(SAMPLES, FEATURES))
    labels = (samples @ truth + np.random.normal(size=SAMPLES) > 0).astype(float)
    train, val = slice(SAMPLES // 2), slice(SAMPLES // 2, None)
    model, start = Logistic(np.random.normal(size=FEATURES)), 0
    if run.weights_from:
        model = load(run.weights_from)
    if run.resume_from:
        model, start = load(run.resume_from), int(np.load(run.resume_from / "state.npz")["epoch"])
    imported = " ".join({"torch", "pytorch_lightning"} & {*sys.modules})
    threads = str(max(pool["num_threads"] for pool in threadpool_info()))
    run.tag({"start": str(start), "imported": imported, "threads": threads})
    loss = float("nan")
    for epoch in range(start, cfg.epochs):
        if os.environ.get("KILL") == str(epoch):
            run.metrics.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        error = model.predict(samples[train]) - labels[train]
        model.weights = model.weights - cfg.rate * samples[train].T @ error / len(error)
        loss = model.loss(samples[val], labels[val])
        run.log({"val_loss": loss}, epoch + 1)
        save(cfg, run, model, epoch + 1)
        run.report(loss, epoch + 1)
    return (loss, float(np.abs(model.weights).sum())) if cfg.case == "two" else loss


def save(cfg: Config, run: Run, model: Logistic, epoch: int) -> None:
    name = "../state.npz" if cfg.case == "name" else "state.npz"
    if cfg.case == "nothing":
        run.save(name, lambda file: None)
    run.save(name, lambda file: np.savez(file, weights=model.weights, epoch=epoch))


if __name__ == "__main__":
    main()
