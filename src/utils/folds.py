"""Folds for cross-validation: which fold each row is in.

A feature writes the numbers as a column of its files. All models that read it then hold out the same rows.
scikit-learn, which comes with MLflow, does the splitting.
"""

from collections.abc import Iterable
from typing import Literal, get_args

from src.utils.errors import UserError

import numpy as np
from numpy.typing import ArrayLike, NDArray

Split = Literal["stratified", "grouped", "time", "column"]

NEVER_HELD_OUT = -1  # the fold of rows that are only trained on
CLASSES = 10  # into which continuous values are divided, so that each fold has as many of each


def assign_folds(by: ArrayLike, folds: int, split: Split, seed: int = 0) -> NDArray[np.int64]:
    """Return the fold of each row, counted from 0.

    Args:
        by: a value for each row, [N]; what it means depends on `split`:
            stratified: its class or its value (a float): all folds have the same distribution;
            grouped: its group, which stays together;
            time: its time; the first block of rows is in fold -1, the later ones in folds 0, 1, …;
            column: its fold, chosen by you; -1 for a row that is never held out.
        folds: how many there are.
        seed: shuffles stratified and grouped folds.

    Raises:
        UserError: there are too few rows, classes, groups or times for so many folds, or a column holds
            something else than the numbers of folds.
    """
    if split not in get_args(Split):
        raise UserError(f"split={split} should be one of {', '.join(get_args(Split))}")
    values = np.asarray(by)
    if split == "column":
        return _checked(values, folds)
    try:
        return {"stratified": _stratified, "grouped": _grouped, "time": _in_time}[split](
            values, folds, seed
        )
    except ValueError as error:
        raise UserError(f"folds={folds} split={split}: {error}") from None


def training_rows(fold: ArrayLike, held_out: int, split: str) -> NDArray[np.bool_]:
    """Which rows a model may train on that holds out a fold: the others, and with `time` the earlier ones."""
    numbers = np.asarray(fold)
    return numbers < held_out if split == "time" else numbers != held_out


def _stratified(values: NDArray[np.generic], folds: int, seed: int) -> NDArray[np.int64]:
    from sklearn.model_selection import StratifiedKFold  # late: slow to import

    if values.dtype.kind == "f":
        ranks = values.argsort(kind="stable").argsort(kind="stable")
        values = ranks * CLASSES // len(values)
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    return _numbered(splitter.split(values, values), len(values))


def _grouped(values: NDArray[np.generic], folds: int, seed: int) -> NDArray[np.int64]:
    from sklearn.model_selection import GroupKFold

    splitter = GroupKFold(folds, shuffle=True, random_state=seed)
    return _numbered(splitter.split(values, groups=values), len(values))


def _in_time(values: NDArray[np.generic], folds: int, seed: int) -> NDArray[np.int64]:
    """Rows of the same time stay together."""
    from sklearn.model_selection import TimeSeriesSplit

    times, position = np.unique(values, return_inverse=True)
    return _numbered(TimeSeriesSplit(folds).split(times), len(times))[position]


def _numbered(
    splits: Iterable[tuple[NDArray[np.intp], NDArray[np.intp]]], rows: int
) -> NDArray[np.int64]:
    numbers = np.full(rows, NEVER_HELD_OUT, dtype=np.int64)
    for fold, (_, held_out) in enumerate(splits):
        numbers[held_out] = fold
    return numbers


def _checked(values: NDArray[np.generic], folds: int) -> NDArray[np.int64]:
    found = sorted(set(values.tolist()) - {NEVER_HELD_OUT})
    if found != list(range(folds)):
        shown = ", ".join(map(str, found[:10]))
        raise UserError(
            f"folds={folds} split=column: the column should hold 0 to {folds - 1} (and -1), it holds {shown}"
        )
    return values.astype(np.int64)
