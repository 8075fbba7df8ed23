"""Gradient-boosted trees (LightGBM) that predict how many bikes are rented in an hour.

    poetry run python src/model/model02/boosted_trees.py
    poetry run python src/model/model02/boosted_trees.py folds=5
    poetry run python src/model/model02/boosted_trees.py -m folds=5 'num_leaves=range(7,64)'

They learn log(1 + count): the mean squared error of the logarithms is what the competition scores.
"""

from pathlib import Path
from typing import Annotated, Any

from src.utils.experiment import experiment
from src.utils.folds import training_rows
from src.utils.run import Run
from src.utils.settings import ModelSettings

import lightgbm as lgb
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

TARGET, NOT_INPUTS = "count", ["id", "count", "fold"]
REPORT_EVERY = 50  # rounds
Fraction = Annotated[float, Field(gt=0, le=1)]


class Config(ModelSettings):
    """The types of the settings; their values are in config/model/model02."""

    feature: str
    rounds: PositiveInt
    patience: PositiveInt
    learning_rate: PositiveFloat
    num_leaves: Annotated[int, Field(ge=2)]
    min_data_in_leaf: PositiveInt
    feature_fraction: Fraction
    bagging_fraction: Fraction
    lambda_l2: NonNegativeFloat


@experiment
def main(cfg: Config, run: Run) -> float:
    """Boost trees until the held-out fold is predicted no better; predict that fold and the test rows.

    Returns:
        The objective of a search: the RMSLE on the held-out fold.
    """
    rows, test = (
        pd.read_parquet(run.input("feature") / f"{name}.parquet") for name in ("train", "test")
    )
    train = rows[training_rows(rows["fold"], run.fold, run.data_metadata["split"])]
    val = rows[rows["fold"] == run.fold]
    curve = fit(cfg, run, train, val)

    model = load(run.saved)
    predicted = model.predict(val)
    run.predictions("oof", val["id"], predicted, val[TARGET])
    run.predictions("test", test["id"], model.predict(test))
    for round_, rmsle in curve.items():
        run.log({"val_rmsle": rmsle}, round_)
    run.log({"trees": model.booster.num_trees()})
    run.figure("importance", importance(model.booster))
    return score(val[TARGET], predicted)


def fit(cfg: Config, run: Run, train: pd.DataFrame, val: pd.DataFrame) -> dict[int, float]:
    """Train, save the trees, and return the RMSLE on `val` by round, up to the best round.

    The trees of a run that is resumed, or of a warm start, are kept, and more are added.
    """
    start = run.resume_from or run.weights_from
    before = lgb.Booster(model_file=start / "model.txt") if start else None
    history: dict[str, Any] = {}

    def report(state: Any) -> None:
        round_ = state.iteration + 1
        if round_ % REPORT_EVERY == 0:
            run.save("model.txt", state.model.save_model)
            run.report(state.evaluation_result_list[0][2], round_)

    booster = lgb.train(
        parameters(cfg),
        dataset(train),
        cfg.rounds,
        [dataset(val)],
        ["val"],
        init_model=before,
        callbacks=[
            lgb.early_stopping(cfg.patience, verbose=False),
            lgb.record_evaluation(history),
            report,
        ],
    )
    run.save("model.txt", booster.save_model)  # up to the best round
    first = 1 + (before.num_trees() if before else 0)
    curve = dict(enumerate(history["val"]["rmse"], first))
    return {round_: rmsle for round_, rmsle in curve.items() if round_ <= booster.best_iteration}


def parameters(cfg: Config) -> dict[str, Any]:
    """LightGBM's parameters."""
    names = {"learning_rate", "num_leaves", "min_data_in_leaf", "feature_fraction"}
    chosen = cfg.model_dump(include=names | {"bagging_fraction", "lambda_l2", "seed"})
    fixed = {"objective": "regression", "metric": "rmse", "bagging_freq": 1, "verbosity": -1}
    return {**fixed, **chosen, "deterministic": True, "force_row_wise": True}


def dataset(rows: pd.DataFrame) -> lgb.Dataset:
    """The inputs of the trees, and the logarithms that they learn."""
    inputs = rows.drop(columns=NOT_INPUTS)
    return lgb.Dataset(inputs, np.log1p(rows[TARGET]), params={"verbosity": -1})


class BoostedTrees:
    """The saved trees, which predict rented bikes."""

    def __init__(self, file: Path) -> None:
        self.booster = lgb.Booster(model_file=file)

    def predict(self, rows: pd.DataFrame) -> NDArray[np.float64]:
        """Return the predictions [N] for rows of the feature."""
        inputs = rows[self.booster.feature_name()]
        return np.expm1(self.booster.predict(inputs)).clip(min=0)


def load(folder: Path) -> BoostedTrees:
    """The model of a run; `load_model` calls it."""
    return BoostedTrees(folder / "model.txt")


def score(target: NDArray[np.float64], prediction: NDArray[np.float64]) -> float:
    """The metric of the competition: the root mean squared error of log(1 + count)."""
    errors = np.log1p(np.maximum(prediction, 0)) - np.log1p(target)
    return float(np.sqrt(np.mean(errors**2)))


def importance(booster: lgb.Booster) -> Figure:
    """Plot by how much the splits on each column reduce the error."""
    gain = pd.Series(booster.feature_importance("gain"), booster.feature_name()).sort_values()
    figure = Figure(figsize=(6, 5))
    figure.subplots().barh(gain.index, gain / gain.sum())
    figure.axes[0].set(xlabel="share of the gain", title=f"{booster.num_trees()} trees")
    return figure


if __name__ == "__main__":
    main()
