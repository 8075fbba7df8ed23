"""Three fits in one run without Lightning: in NumPy, and of LightGBM. `test_parts.py` copies it.

python src/model/model94/plain_parts.py kind=boosting
"""

# ruff: noqa: NPY002  the setting `seed` seeds NumPy's global generator
import os
import signal
from functools import partial
from typing import Literal

from src.utils.experiment import experiment
from src.utils.run import Run
from src.utils.settings import ModelSettings

import lightgbm
import matplotlib.figure
import numpy as np
from threadpoolctl import threadpool_info


class Config(ModelSettings):
    kind: Literal["descent", "boosting"]
    rate: float


@experiment
def main(cfg: Config, run: Run) -> float:
    run.tag({"threads": str(max(pool["num_threads"] for pool in threadpool_info()))})
    losses = []
    for fold in range(3):
        part = run.part(f"fold{fold}")
        losses.append(part.once(globals()[cfg.kind], cfg, part, fold))
    return sum(losses) / 3


def descent(cfg: Config, part: Run, fold: int) -> float:
    """Goes on from what it has saved."""
    weight, start = np.random.normal(), 0
    if part.resume_from:
        state = np.load(part.resume_from / "state.npz")
        weight, start = float(state["weight"]), int(state["step"])
        assert start == 5
    for step in range(start, 10):
        kill(fold, step)
        weight -= cfg.rate * (weight - fold)
        part.log({"loss": (weight - fold) ** 2}, step)
        part.save("state.npz", partial(np.savez, weight=weight, step=step + 1))
    part.figure("line", matplotlib.figure.Figure((1, 1)))
    return (weight - fold) ** 2


def boosting(cfg: Config, part: Run, fold: int) -> float:
    """Begins again: it takes a second."""

    def report(state) -> None:
        kill(fold, state.iteration)
        loss = state.evaluation_result_list[0][2]
        part.log({"loss": loss}, state.iteration)
        part.report(loss, state.iteration)

    rows = np.random.normal(size=(60, 3))
    data = lightgbm.Dataset(rows, rows.sum(1))
    settings = {"learning_rate": cfg.rate, "verbose": -1, "num_threads": 1, "metric": "l2"}
    booster = lightgbm.train(settings, data, 10, [data], callbacks=[report])
    part.save("model.txt", booster.save_model)
    return float(np.mean((booster.predict(rows) - rows.sum(1)) ** 2))


def kill(fold: int, step: int) -> None:
    """At the fold and step that KILL names."""
    if os.environ.get("KILL") == f"{fold} {step}":
        os.kill(os.getpid(), signal.Signals[os.environ["BY"]])


if __name__ == "__main__":
    main()
