"""Predictions: how `run.predictions` stores them, and how those of a group's members are put together."""

from pathlib import Path

from src.utils.errors import UserError
from src.utils.predictions import Predictions, pool_members, save_predictions
from src.utils.runs.member import Member

import numpy as np
import pandas as pd
import pytest
import torch

IDS, VALUES = [7, 3, 5], [0.1, 0.2, 0.3]


class Frame:
    """What polars, too, has: `columns` and `to_numpy`."""

    columns = ("cat", "dog")

    def to_numpy(self) -> np.ndarray:
        return np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])


def stored(folder: Path, split: str = "oof") -> pd.DataFrame:
    return pd.read_parquet(folder / "predictions" / f"{split}.parquet")


@pytest.mark.parametrize(
    "values",
    [
        VALUES,
        np.array(VALUES, dtype=np.float16),
        np.array(VALUES)[:, None],
        pd.Series(VALUES, index=[9, 8, 7]),
        pd.DataFrame({"count": VALUES}),
        torch.tensor(VALUES, requires_grad=True),
        torch.tensor(VALUES)[:, None].bfloat16(),
    ],
    ids=["list", "half", "column", "series", "frame", "tensor", "bfloat16"],
)
def test_one_column(tmp_path: Path, values: object) -> None:
    """One number a row is the column `prediction`, whatever library it comes from."""
    save_predictions(tmp_path, "oof", IDS, values, target=pd.Series(["a", "b", "a"]))
    table = stored(tmp_path)
    assert list(table) == ["id", "prediction", "target"]
    assert list(table.id) == IDS
    assert list(table.prediction) == pytest.approx(VALUES, rel=0.01)
    assert list(table.target) == ["a", "b", "a"]


def test_several_columns(tmp_path: Path) -> None:
    """Classes and several targets are a column each; those of a frame keep their names."""
    save_predictions(tmp_path, "test", ["x", "y", "z"], torch.ones(3, 2))
    assert list(stored(tmp_path, "test")) == ["id", "prediction_0", "prediction_1"]
    save_predictions(tmp_path, "test", ["x", "y", "z"], Frame(), np.zeros((3, 2)))
    table = stored(tmp_path, "test")
    assert list(table)[1:] == ["prediction_cat", "prediction_dog", "target_0", "target_1"]
    assert list(table.prediction_cat) == [0.9, 0.8, 0.7]
    found = Predictions.read(tmp_path, "test")
    assert found and found.values.shape == (3, 2) and found.target is not None


@pytest.mark.parametrize(
    ("split", "ids", "values", "target", "message"),
    [
        ("val", IDS, VALUES, None, "'val', …): the split should be oof or test"),
        ("oof", [7, 3], VALUES, None, "not 2 rows of ids, 3 rows of values"),
        ("oof", IDS, VALUES, [1, 2], "not 3 rows of ids, 3 rows of values, 2 rows of target"),
        ("oof", [], [], None, "not 0 rows of ids"),
        ("oof", [7, 3, 7], VALUES, None, "id 7 is there twice"),
        ("oof", ["a", None, "b"], VALUES, None, "row 1 has no id"),
        ("oof", np.array([1, "a", 2], object), VALUES, None, "of one type, not int and str"),
        ("oof", np.ones((3, 2)), VALUES, None, "ids should be one column"),
        ("oof", IDS, [0.1, np.inf, 1], None, "the prediction of id 3 is inf, not a finite number"),
        ("oof", IDS, [[1, 2], [1, 2], [1, None]], None, "the prediction_1 of id 5 is nan"),
        (
            "oof",
            IDS,
            ["cat", "dog", "dog"],
            None,
            "values should be numbers, such as probabilities",
        ),
        ("oof", IDS, VALUES, [1.0, np.nan, 1.0], "the target of id 3 is missing"),
        ("oof", IDS, [np.ones((2, 2)), np.ones((1, 2))], None, "values should be one array"),
        ("oof", IDS, np.ones((3, 2, 2)), None, "values should be [N] or [N, K], not of the shape"),
        ("oof", IDS, pd.DataFrame(np.ones((3, 2)), columns=["a", "a"]), None, "name of its own"),
    ],
)
def test_mistakes(
    tmp_path: Path, split: str, ids: object, values: object, target: object, message: str
) -> None:
    """Each mistake is one line that names it, and nothing is written."""
    with pytest.raises(UserError) as refused:
        save_predictions(tmp_path, split, ids, values, target)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def member(
    folder: Path, fold: int | None, seed: int, ids: list[int], shift: float = 0
) -> tuple[Member, Path]:
    """A member that predicts the id itself, and perhaps more, and the folder of its artifacts."""
    name = f"seed {seed}" if fold is None else f"fold {fold} seed {seed}"
    own = folder / name
    values = np.array(ids, dtype=float)
    save_predictions(own, "oof", ids, values + shift, values)
    save_predictions(own, "test", [100, 101], np.array([seed, fold or 0]))
    return Member(fold, seed, name), own


def test_pooling(tmp_path: Path) -> None:
    """A group has each row that was held out once, averaged over seeds, and averages test rows over all."""
    members = dict(
        member(tmp_path, fold, seed, ids, shift=seed)
        for seed in (1, 2)
        for fold, ids in enumerate([[4, 0], [3, 1], [2]])
    )
    pooled = pool_members(tmp_path, members)
    assert pooled is not None
    target, prediction = pooled
    assert target.tolist() == [0, 1, 2, 3, 4]
    assert prediction.tolist() == [1.5, 2.5, 3.5, 4.5, 5.5]
    assert list(stored(tmp_path).fold) == [0, 1, 2, 1, 0]
    assert stored(tmp_path, "test").prediction.tolist() == [1.5, 1.0]


def test_pooling_of_seeds(tmp_path: Path) -> None:
    """Without folds, all seeds hold out the same rows; members without predictions have nothing to pool."""
    members = dict(member(tmp_path, None, seed, [1, 2], seed) for seed in (0, 1))
    pooled = pool_members(tmp_path, members)
    assert pooled is not None
    assert pooled[1].tolist() == [1.5, 2.5]
    assert "fold" not in stored(tmp_path)
    one, empty = member(tmp_path, None, 3, [1])
    for file in (empty / "predictions").iterdir():
        file.unlink()
    assert pool_members(tmp_path / "new", {one: empty}) is None


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([(0, 1, [1, 2]), (1, 1, [2, 3])], "seed 1: row 2 was held out in two folds"),
        ([(0, 1, [1, 2, 3]), (0, 2, [1])], "seed 2 lacks row 2 and 1 more, which seed 1 has"),
    ],
)
def test_pooling_mistakes(
    tmp_path: Path, members: list[tuple[int, int, list[int]]], message: str
) -> None:
    """Folds that overlap, and seeds with other rows, are one line with the first such row."""
    with pytest.raises(UserError, match=message):
        pool_members(tmp_path, dict(member(tmp_path, *one) for one in members))


def test_incomplete_members(tmp_path: Path) -> None:
    """A member without predictions, or with other columns, is named."""
    members = dict(member(tmp_path, fold, 0, [fold]) for fold in range(3))
    folders = list(members.values())
    save_predictions(folders[1], "oof", [1], np.ones((1, 2)))
    with pytest.raises(UserError, match=r"prediction, but fold 1 seed 0 has the columns predict"):
        pool_members(tmp_path, members)
    (folders[2] / "predictions" / "oof.parquet").unlink()
    with pytest.raises(UserError, match="fold 2 seed 0 has no oof predictions, but fold 0 seed 0"):
        pool_members(tmp_path, members)
