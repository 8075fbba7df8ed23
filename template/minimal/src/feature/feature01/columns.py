"""The columns of a table, each with a mean of 0 and a standard deviation of 1.

    poetry run python src/feature/feature01/columns.py

Output: table.parquet, in which the column `target` is the class.
"""

from src.utils.experiment import experiment
from src.utils.run import Run
from src.utils.settings import StageSettings

import pandas as pd
from sklearn.datasets import load_breast_cancer


class Config(StageSettings):
    """The types of the settings; their values are in config/feature/feature01."""

    dataset: str | None


@experiment
def main(cfg: Config, run: Run) -> None:
    """Scale the columns. Put your own ones here."""
    table = read_table(cfg, run)
    inputs = table.drop(columns="target")
    scaled = (inputs - inputs.mean()) / inputs.std()
    scaled.assign(target=table["target"]).to_parquet(run.output / "table.parquet", index=False)
    run.log({"rows": len(scaled), "columns": scaled.shape[1]})


def read_table(cfg: Config, run: Run) -> pd.DataFrame:
    """The table of the dataset; without one, measurements that come with scikit-learn."""
    if cfg.dataset:
        return pd.read_parquet(run.input("dataset") / "table.parquet")
    return load_breast_cancer(as_frame=True).frame


if __name__ == "__main__":
    main()
