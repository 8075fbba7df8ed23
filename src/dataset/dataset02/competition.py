"""A tabular competition as Kaggle gives it: three CSV files, checked.

    poetry run python src/dataset/dataset02/competition.py
    poetry run python src/dataset/dataset02/competition.py source=local folder=$HOME/data/my-competition

Output: train.csv, test.csv and sample_submission.csv, as they came. The first column of the sample submission
is the id of a row; the others are the targets, which train.csv has and test.csv doesn't.

Data: H. Fanaee-T, «Bike Sharing», doi:10.24432/C5W894; CC BY 4.0. See _data/sample/bikes/README.md.
"""

import hashlib
import logging
import shutil
from pathlib import Path
from typing import Literal

from src.utils.experiment import experiment
from src.utils.errors import UserError
from src.utils.paths import ROOT
from src.utils.run import Run
from src.utils.settings import StageSettings

import pandas as pd

log = logging.getLogger(__name__)

BIKES = ROOT / "_data" / "sample" / "bikes"
FILES = {  # the SHA-256 digests of the bikes
    "train.csv": "e3973c93463622f1517061e8f83078c3cacd590bbd2e34ff9c74b7c0ff69aedb",
    "test.csv": "0766d3f114fee98fc4af5538a74205a8b9eccc775a82713778253ad613e3f417",
    "sample_submission.csv": "f157c46f1c5f018fdbf0330da64c375b4a2407c623e28a1a3278e3cfb48e9068",
}


class Config(StageSettings):
    """The types of the settings; their values are in config/dataset/dataset02."""

    source: Literal["bikes", "local"]
    folder: Path | None  # of the three files, for source=local

    def paths_read(self) -> list[Path]:
        """The folder is read with source=local only."""
        return [self.folder] if self.folder and self.source == "local" else []


@experiment
def main(cfg: Config, run: Run) -> None:
    """Find the three files, check them, and copy them to the output."""
    files = find_files(cfg)
    tables = [read_table(file) for file in files]
    check_tables(*tables)
    for file in files:
        shutil.copyfile(file, run.output / file.name)
    counts = {name: len(table) for name, table in zip(("train", "test"), tables, strict=False)}
    run.tag_data(source=cfg.source)
    run.log({f"{name}_rows": count for name, count in counts.items()})
    log.info("%s: %s train and %s test rows (%s)", run.experiment, *counts.values(), cfg.source)


def find_files(cfg: Config) -> list[Path]:
    """Find the three files that the setting `source` asks for.

    Raises:
        UserError: source=local has no folder, a file is missing, or one of the bikes was changed.
    """
    if cfg.source == "local" and cfg.folder is None:
        raise UserError("source=local needs folder=…: the folder with train.csv and the others")
    folder = cfg.folder.expanduser() if cfg.source == "local" and cfg.folder else BIKES
    files = [folder / name for name in FILES]
    for file in files:
        if not file.is_file():
            raise UserError(f"{folder} has no {file.name}: a competition is {', '.join(FILES)}")
        if cfg.source == "bikes" and digest(file) != FILES[file.name]:
            raise UserError(f"{file} is not what was published: get it again with git")
    return files


def digest(file: Path) -> str:
    """The SHA-256 digest of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def read_table(file: Path) -> pd.DataFrame:
    """Read a CSV file with rows.

    Raises:
        UserError: it is no such file.
    """
    try:
        table = pd.read_csv(file)
    except ValueError as error:
        raise UserError(f"{file} is not a CSV file: {error}") from None
    if table.empty:
        raise UserError(f"{file} has no rows")
    return table


def check_tables(train: pd.DataFrame, test: pd.DataFrame, submission: pd.DataFrame) -> None:
    """Check that the three tables belong together.

    Raises:
        UserError: ids are not unique or not those of the test rows, a column is missing, or test.csv has a
            target.
    """
    row_id, *targets = submission.columns
    for name, table in (
        ("train.csv", train),
        ("test.csv", test),
        ("sample_submission.csv", submission),
    ):
        if row_id not in table or table[row_id].duplicated().any():
            raise UserError(
                f"{name} should have a column {row_id} in which no value is there twice"
            )
    if set(submission[row_id]) != set(test[row_id]):
        raise UserError(f"sample_submission.csv and test.csv differ in their {row_id}")
    if missing := [name for name in (*test.columns, *targets) if name not in train]:
        raise UserError(f"train.csv has no column {', '.join(missing)}")
    if given := [name for name in targets if name in test]:
        raise UserError(f"test.csv has the target {', '.join(given)}: is it another train.csv?")


if __name__ == "__main__":
    main()
