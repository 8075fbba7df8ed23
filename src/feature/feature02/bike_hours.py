"""The hours of the bike competition with engineered columns, and the fold of each row.

    poetry run python src/feature/feature02/bike_hours.py
    poetry run python src/feature/feature02/bike_hours.py split=stratified by=count folds=4
    poetry run python src/feature/feature02/bike_hours.py split=time by=datetime

Output: train.parquet and test.parquet.

    id                  of the row, as in the sample submission
    count               the target: rented bikes; train.parquet only
    fold                the fold in which the row is held out; train.parquet only
    every other column  an input of the models: a category, or a number

A fold holds whole weeks, as the hidden rows do: an hour is too easy to predict from those beside it.
"""

import logging
from typing import Annotated

from src.utils.experiment import experiment
from src.utils.errors import UserError
from src.utils.folds import Split, assign_folds
from src.utils.run import Run
from src.utils.settings import StageSettings

import numpy as np
import pandas as pd
from pydantic import Field

log = logging.getLogger(__name__)

WEATHER = ["clear", "cloudy/misty", "light rain/snow", "heavy rain/snow"]  # from good to bad
NEARBY = 3  # hours


class Config(StageSettings):
    """The types of the settings; their values are in config/feature/feature02."""

    dataset: str
    folds: Annotated[int, Field(ge=2)]
    split: Split
    by: str  # a column of the dataset, or `week`


@experiment
def main(cfg: Config, run: Run) -> None:
    """Engineer the columns of all hours, and assign the folds of those whose target is known."""
    names = ("train", "test")
    tables = [pd.read_csv(run.input("dataset") / f"{name}.csv") for name in names]
    hours = pd.concat(tables, keys=names, names=["file"]).sort_values("id")
    hours["datetime"] = pd.to_datetime(hours["datetime"])
    hours["week"] = hours["datetime"].dt.to_period("W").dt.start_time  # weeks begin on Monday
    inputs = engineer(hours)

    train = hours.loc["train"]
    columns = inputs.loc["train"].assign(count=train["count"], fold=folds_of(train, cfg))
    columns.to_parquet(run.output / "train.parquet", index=False)
    inputs.loc["test"].to_parquet(run.output / "test.parquet", index=False)

    run.tag_data(folds=str(cfg.folds), split=cfg.split)
    sizes = columns["fold"].value_counts().sort_index()
    run.log({f"fold{fold}_rows": size for fold, size in sizes.items()})
    shown = ", ".join(map(str, sizes))
    log.info("%s: %s columns; rows of the folds: %s", run.experiment, inputs.shape[1] - 1, shown)


def engineer(hours: pd.DataFrame) -> pd.DataFrame:
    """Make the inputs of the models, with the id, from calendar and weather; the hours are in order."""
    time = hours["datetime"].dt
    year = 2 * np.pi * time.day_of_year / 365
    wet = hours["weather"].map(WEATHER.index)
    later = wet[::-1]
    columns = {
        "id": hours["id"],
        "weekday": time.day_name(),
        "weather": hours["weather"].astype(pd.CategoricalDtype(WEATHER)),
        "working_hour": time.strftime("%H ") + hours["workingday"].map({1: "work", 0: "free"}),
        "hour": time.hour,
        "day_of_year": time.day_of_year,
        "year_sin": np.sin(year),
        "year_cos": np.cos(year),
        "wet_before": wet.rolling(NEARBY, min_periods=1).mean(),
        "wet_after": later.rolling(NEARBY, min_periods=1).mean()[::-1],
        "warmer": hours["temp"].diff(NEARBY).fillna(0),
        "temp_of_day": hours["temp"].groupby(time.date).transform("mean"),
    }
    published = ["holiday", "workingday", "temp", "atemp", "humidity", "windspeed"]
    inputs = pd.DataFrame(columns).join(hours[published])
    return inputs.astype({"weekday": "category", "working_hour": "category"})


def folds_of(train: pd.DataFrame, cfg: Config) -> pd.Series:
    """The fold of each row, as the settings say.

    Raises:
        UserError: there is no column `by`, or the rows can't be split by it.
    """
    if cfg.by not in train:
        raise UserError(f"by={cfg.by} should be one of the columns {', '.join(train)}")
    numbers = assign_folds(train[cfg.by], cfg.folds, cfg.split, cfg.seed)
    return pd.Series(numbers, train.index)


if __name__ == "__main__":
    main()
