"""Columns of NumPy arrays, from what any library returns: arrays, lists, frames or tensors."""

from typing import Any

from src.utils.errors import UserError, one_line

import numpy as np

Columns = dict[str, np.ndarray]


def named_columns(data: Any, name: str, prefix: str) -> Columns:
    """The columns of data [N] or [N, K] by name.

    One column is named `<prefix>`, several `<prefix>_0`, `<prefix>_1` …; those of a frame keep their names
    behind the prefix.

    Args:
        name: of the data, for messages.

    Raises:
        UserError: the data are no array of one or two dimensions, or two columns have the same name.
    """
    array = _array(data, name)
    if array.ndim not in (1, 2):
        raise UserError(f"{name} should be [N] or [N, K], not of the shape {list(array.shape)}")
    columns = split_columns(array)
    if len(columns) == 1:
        return {prefix: columns[0]}
    names = [f"{prefix}_{column}" for column in getattr(data, "columns", range(len(columns)))]
    if len({*names}) < len(names) or not names:
        raise UserError(f"{name} should have columns, and each a name of its own")
    return dict(zip(names, columns, strict=True))


def number_columns(data: Any, name: str, prefix: str) -> Columns:
    """The same for numbers: float16 and float32 become float32, others float64.

    Raises:
        UserError: the data are no numbers, or not as `named_columns` needs them.
    """
    columns = named_columns(data, name, prefix)
    return {key: _as_floats(column, name) for key, column in columns.items()}


def split_columns(array: np.ndarray) -> list[np.ndarray]:
    """The columns of an array [N] or [N, K]."""
    return [array] if array.ndim == 1 else list(array.T)


def _array(data: Any, name: str) -> np.ndarray:
    if hasattr(data, "detach"):  # a tensor of torch; NumPy has no bfloat16
        data = data.detach().cpu()
        data = data.float() if str(data.dtype) == "torch.bfloat16" else data
    try:
        return np.asarray(data.to_numpy() if hasattr(data, "to_numpy") else data)
    except (TypeError, ValueError) as error:  # such as a list of batches
        raise UserError(f"{name} should be one array: {one_line(error)}") from None


def _as_floats(column: np.ndarray, name: str) -> np.ndarray:
    if column.dtype.kind not in "biufO" or (len(column) and isinstance(column[0], str)):
        kind = type(column[0]).__name__ if len(column) else str(column.dtype)
        raise UserError(f"{name} should be numbers, such as probabilities of classes, not {kind}")
    try:
        return column.astype(np.float32 if column.dtype in (np.float16, np.float32) else np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} should be numbers: {one_line(error)}") from None
