"""A softmax regression on the digits in NumPy: quick, and resumable without torch. Tests copy it.

python src/model/model94/softmax.py
"""

# ruff: noqa: NPY002  the setting `seed` seeds NumPy's global generator
import os
import signal

from src.utils.experiment import experiment
from src.utils.run import Run
from src.utils.settings import ModelSettings

import numpy as np
from pydantic import PositiveFloat, PositiveInt
from safetensors.numpy import load_file

FACTOR = 1.0  # of the gradient: what changes of the code change


class Config(ModelSettings):
    feature: str
    rate: PositiveFloat
    epochs: PositiveInt


@experiment
def main(cfg: Config, run: Run) -> float:
    data = load_file(run.input("feature") / "digits.safetensors")
    weights, start = np.random.normal(0, 0.01, (28 * 28, 10)), 0
    if run.resume_from:
        saved = np.load(run.resume_from / "state.npz")
        weights, start = saved["weights"], int(saved["epoch"])
    accuracy = float("nan")
    for epoch in range(start, cfg.epochs):
        if os.environ.get("KILL") == str(epoch):
            run.metrics.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        weights = weights - FACTOR * cfg.rate * gradient(weights, data)
        guesses = pixels(data["val_images"]) @ weights
        accuracy = float((guesses.argmax(axis=1) == data["val_labels"]).mean())
        run.log({"val_acc": accuracy, "weight": float(np.abs(weights).sum())}, epoch + 1)
        save(run, weights, epoch + 1)
    return accuracy


def pixels(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1) / 255 - 0.5


def gradient(weights: np.ndarray, data: dict[str, np.ndarray]) -> np.ndarray:
    inputs = pixels(data["train_images"])
    scores = np.exp(inputs @ weights)
    errors = scores / scores.sum(axis=1, keepdims=True) - np.eye(10)[data["train_labels"]]
    return inputs.T @ errors / len(inputs)


def save(run: Run, weights: np.ndarray, epoch: int) -> None:
    run.save("state.npz", lambda file: np.savez(file, weights=weights, epoch=epoch))


if __name__ == "__main__":
    main()
