"""A competition with tables: an experiment with folds and scikit-learn. Tests copy it.

python src/model/model93/tabular.py folds=3
"""

from pathlib import Path
from typing import Any, Literal

from src.utils.experiment import experiment
from src.utils.run import Run
from src.utils.settings import ModelSettings

import joblib
import numpy as np
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor
from sklearn.linear_model import LogisticRegression, Ridge

ROWS = 300
MODELS = {
    ("numbers", "linear"): Ridge,
    ("numbers", "trees"): ExtraTreesRegressor,
    ("targets", "linear"): Ridge,
    ("targets", "trees"): ExtraTreesRegressor,
    ("classes", "linear"): LogisticRegression,
    ("classes", "trees"): ExtraTreesClassifier,
}


class Config(ModelSettings):
    task: Literal["numbers", "targets", "classes"]  # [N], [N, 2] or three classes
    kind: Literal["linear", "trees"]


def score(target: np.ndarray, prediction: np.ndarray) -> float:
    """Log loss of classes, else root mean squared error."""
    if target.ndim < prediction.ndim:
        return float(-np.log(prediction[np.arange(len(target)), target] + 1e-9).mean())
    return float(np.sqrt(np.mean((target - prediction) ** 2)))


def load(folder: Path) -> Any:
    """The model of a run; `load_model` calls it."""
    return joblib.load(folder / "model.joblib")


def make_table(task: str, first: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, samples [N, 4] and targets; the same in all runs."""
    ids = np.arange(first, first + ROWS)
    random = np.random.default_rng(first)
    x = random.normal(size=(ROWS, 4))
    y = np.stack([x.sum(axis=1) + np.abs(x[:, 0]), x[:, 2] + np.sin(2 * x[:, 3])], axis=1)
    y += random.normal(size=y.shape) / 5
    return ids, x, {"numbers": y[:, 0], "targets": y, "classes": np.digitize(y[:, 0], [0, 1])}[task]


@experiment
def main(cfg: Config, run: Run) -> float:
    run.objective("val_score", "min")
    ids, x, y = make_table(cfg.task, 0)
    held_out = ids % max(cfg.folds, 3) == run.fold
    options = {"n_estimators": 20, "random_state": cfg.seed} if cfg.kind == "trees" else {}
    model = MODELS[cfg.task, cfg.kind](**options).fit(x[~held_out], y[~held_out])
    run.save("model.joblib", lambda file: joblib.dump(model, file))
    predict = model.predict_proba if cfg.task == "classes" else model.predict
    value = score(y[held_out], predict(x[held_out]))
    run.log({"val_score": value})
    run.predictions("oof", ids[held_out], predict(x[held_out]), y[held_out])
    test_ids, test, _ = make_table(cfg.task, 1000)
    run.predictions("test", test_ids, predict(test))
    return value


if __name__ == "__main__":
    main()
