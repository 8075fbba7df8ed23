"""A small table: 569 tumours with 30 measurements of each, which come with scikit-learn.

    poetry run python src/dataset/dataset01/measurements.py

Output: table.parquet, in which the column `target` is the class.
"""

from src.utils.experiment import experiment
from src.utils.run import Run
from src.utils.settings import StageSettings

from sklearn.datasets import load_breast_cancer


class Config(StageSettings):
    """The types of the settings; their values are in config/dataset/dataset01."""


@experiment
def main(cfg: Config, run: Run) -> None:
    """Write the table. Put your own data here: a file, a database, a download."""
    table = load_breast_cancer(as_frame=True).frame
    table.to_parquet(run.output / "table.parquet", index=False)
    run.log({"rows": len(table)})


if __name__ == "__main__":
    main()
