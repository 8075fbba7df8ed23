"""The hours of the bike competition, with engineered columns and the fold of each row.

    poetry run python src/feature/feature02/bike_hours.py
    poetry run python src/feature/feature02/bike_hours.py folds=4 split=stratified by=count
    poetry run python src/feature/feature02/bike_hours.py split=time by=datetime

Output: train.parquet and test.parquet.

    id                 of the row, as in the sample submission
    count, fold        the target, and the fold that the row is held out in; train.parquet only
    the other columns  inputs of a model: those of type `category`, and numbers

Folds keep weeks together: in the hidden weeks, too, no neighbouring hour tells how many bikes were rented.
"""

import logging

from src.utils.experiment import experiment
from src.utils.errors import UserError
from src.utils.folds import Split, assign_folds
from src.utils.run import Run
from src.utils.settings import StageSettings

import numpy as np
import pandas as pd
from pydantic import Field
from typing import Annotated

log = logging.getLogger(__name__)

WEATHER = ["clear", "cloudy/misty", "light rain/snow", "heavy rain/snow"]  # from good to bad
HOURS = 3  # before and after an hour: was it dry, did it get warmer?


class Config(StageSettings):
    """The types of the settings; their values are in config/feature/feature02."""

    dataset: str
    folds: Annotated[int, Field(ge=2)]
    split: Split
    by: str  # a column of the dataset or of the feature


@experiment
def main(cfg: Config, run: Run) -> None:
    """Engineer the columns of all hours, then assign the folds of those with a target."""
    folder = run.input("dataset")
    train, test = (pd.read_csv(folder / f"{name}.csv", parse_dates=["datetime"]) for name in ("train", "test"))
    hours = engineer(pd.concat([train, test], ignore_index=True))

    ...
