"""`lab submit`: the file of a competition, from the test predictions of a run, a group or a blend.

The file has the run's id in its name, and the run has the file's name in the tag `submission`.
`lab submitted` stores its score, once it is known.
"""

from pathlib import Path

from src.utils.errors import UserError
from src.utils.paths import display_path
from src.utils.predictions import ID, PREDICTION, TEST, Predictions, read_predictions
from src.utils.store.mlflow import open_store
from src.utils.store.record import RunRecord
from src.utils.terminal import lab_command, print_hints

import numpy as np
import pandas as pd

SUBMISSION = "submission"  # the tag
MOST_NAMES = 5  # of columns in a message


def write_submission(
    run: RunRecord, sample: Path | None, file: Path | None, labels: bool = False
) -> tuple[Path, pd.DataFrame]:
    """Write the test predictions of a run as CSV; returns the file and what is in it.

    Args:
        sample: a submission as the competition wants it, whose columns, ids and order are kept; without one,
            the columns are those of the predictions.
        file: a new file; None means `submission-<id>.csv` in the current folder.
        labels: write the most probable class in place of the probabilities.

    Raises:
        UserError: the run has no test predictions, they don't fit the sample, or `file` exists already.
    """
    found = read_predictions(run, TEST)
    if found is None:
        raise UserError(
            f"run {run.short} has no test predictions: its program should call "
            'run.predictions("test", ids, values)'
        )
    if file is not None and file.exists():
        raise UserError(f"{file} exists already: name a new file")
    table = _table(found, labels)
    if sample is not None:
        table = _formatted(table, sample)
    file = file or Path(f"{SUBMISSION}-{run.short}.csv")
    file.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(file, index=False)
    open_store().set_tag(run.id, SUBMISSION, str(display_path(file.resolve())))
    return file, table


def print_submission(run: RunRecord, file: Path, table: pd.DataFrame) -> None:
    """Print what was written, and the command that stores its score."""
    print(f"{file}: {len(table)} rows of {', '.join(table.columns)}, from {run.short} ({run.name})")
    print_hints({"score": f"{lab_command()} submitted {run.short} --public SCORE"})


def as_dict(run: RunRecord, file: Path, table: pd.DataFrame) -> dict[str, object]:
    """What was written, as `lab submit --json` prints it."""
    return {"run": run.id, "file": file, "rows": len(table), "columns": list(table.columns)}


def _table(found: Predictions, labels: bool) -> pd.DataFrame:
    """The id and the predictions, or the labels."""
    columns = found.columns(PREDICTION)
    if not labels:
        return found.table[[ID, *columns]]
    if len(columns) == 1:
        chosen = (found.values >= 0.5).astype(int)
    else:
        names = np.array([name.removeprefix(f"{PREDICTION}_") for name in columns])
        chosen = names[found.values.argmax(axis=1)]
    return pd.DataFrame({ID: found.ids, PREDICTION: chosen})


def _formatted(table: pd.DataFrame, sample: Path) -> pd.DataFrame:
    """The same with the columns, ids and order of a sample."""
    wanted = _read_sample(sample)
    key, *columns = wanted.columns
    ids = table[ID].map(str)
    for one, other, whose in (
        (wanted[key], ids, "the predictions lack"),
        (ids, wanted[key], f"{sample} lacks"),
    ):
        missing = one[~one.isin(other)]
        if len(missing):
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UserError(f"{whose} the id {missing.iloc[0]}{more}")
    names = _match(list(table.columns[1:]), columns, sample)
    ordered = table.set_axis(ids).loc[wanted[key], names]
    return pd.DataFrame({key: wanted[key], **dict(zip(columns, ordered.to_numpy().T, strict=True))})


def _read_sample(sample: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(sample, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(f"--format {sample} can't be read: {error}") from None
    if table.shape[1] < 2 or table.iloc[:, 0].duplicated().any():
        raise UserError(f"--format {sample}: it should have a column of ids, each once, and others")
    return table


def _match(names: list[str], columns: list[str], sample: Path) -> list[str]:
    """The columns of the predictions in the order of the sample's: by name, else by position."""
    by_name = [f"{PREDICTION}_{column}" for column in columns]
    if {*by_name} == {*names}:
        return by_name
    numbered = [f"{PREDICTION}_{number}" for number in range(len(columns))]
    if len(columns) == len(names) and (len(names) == 1 or names == numbered):
        return names
    raise UserError(
        f"{sample} has the columns {_join(columns)} besides the id, the predictions have {_join(names)}"
        f"{'' if len(columns) > 1 else '; --labels writes the most probable class'}"
    )


def _join(names: list[str]) -> str:
    return ", ".join(names[:MOST_NAMES]) + (" …" if len(names) > MOST_NAMES else "")
