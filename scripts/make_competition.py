"""Make _data/sample/bikes, the small competition that comes with the repository, from a published table.

    .venv/bin/python scripts/make_competition.py PATH/TO/Bikeshare.csv

The table is a file of the package ISLP on PyPI: `pip download --no-deps ISLP`, then unzip the wheel.
Every fourth week is hidden: its hours are test.csv, and how many bikes were rented is in solution.csv alone.
"""

import sys
from pathlib import Path

import pandas as pd

COMPETITION = Path(__file__).parents[1] / "_data" / "sample" / "bikes"
NEW_YEAR = pd.Timestamp("2011-01-01")
COLUMNS = {  # as published: as Kaggle's Bike Sharing Demand calls it
    "season": "season",
    "holiday": "holiday",
    "workingday": "workingday",
    "weathersit": "weather",
    "temp": "temp",
    "atemp": "atemp",
    "hum": "humidity",
    "windspeed": "windspeed",
    "bikers": "count",
}
TARGET = ["id", "count"]


def read_hours(file: Path) -> pd.DataFrame:
    """All hours of 2011 in order, numbered from 1. How many members rented is left out: it tells the sum."""
    published = pd.read_csv(file)
    hours = published.rename(columns=COLUMNS)[list(COLUMNS.values())]
    since_new_year = (published["day"] - 1) * 24 + published["hr"]
    hours.insert(0, "id", range(1, len(hours) + 1))
    hours.insert(1, "datetime", NEW_YEAR + pd.to_timedelta(since_new_year, unit="h"))
    return hours


def is_hidden(times: pd.Series) -> pd.Series:
    """Whether an hour is in the fourth, eighth, … week of the year; weeks begin on Monday."""
    week = (times.dt.day_of_year - 1 + NEW_YEAR.day_of_week) // 7
    return week % 4 == 3


def main(published: Path) -> None:
    """Write the four files of the competition."""
    hours = read_hours(published)
    hidden = is_hidden(hours["datetime"])
    test = hours[hidden]
    files = {
        "train.csv": hours[~hidden],
        "test.csv": test.drop(columns="count"),
        "sample_submission.csv": test.assign(count=0)[TARGET],
        "solution.csv": test[TARGET],
    }
    for name, table in files.items():
        table.to_csv(COMPETITION / name, index=False, lineterminator="\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
