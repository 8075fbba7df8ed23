"""The predictions of a run, by row: the artifacts `predictions/oof.parquet` and `predictions/test.parquet`.

oof     out-of-fold predictions: of rows that the model was not trained on, with their target
test    predictions of rows whose target may be unknown

A file has the columns `id` and `prediction`, or `prediction_0`, `prediction_1` … for values [N, K]; if known,
`target` (or `target_0` …) and, in the file of a group, `fold`. `run.predictions` writes them, `pool_members`
puts those of a group's members together, `lab blend` and `lab submit` read them.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.utils.errors import UserError
from src.utils.files import replace_file
from src.utils.paths import PREDICTIONS
from src.utils.runs.arrays import named_columns, number_columns, split_columns
from src.utils.runs.member import Member
from src.utils.store.reader import find_artifact
from src.utils.store.record import RunRecord

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

OOF, TEST = SPLITS = ("oof", "test")
ID, PREDICTION, TARGET, FOLD = "id", "prediction", "target", "fold"  # columns


def save_predictions(folder: Path, split: str, ids: Any, values: Any, target: Any = None) -> Path:
    """Check predictions, and write them to `predictions/<split>.parquet` in a folder of artifacts.

    Raises:
        UserError: the split has another name, or ids, values and target don't fit together.
    """
    call = f"run.predictions({split!r}, …)"
    if split not in SPLITS:
        raise UserError(f"{call}: the split should be {' or '.join(SPLITS)}")
    try:
        return Predictions.of(ids, values, target).save(folder, split)
    except UserError as mistake:
        raise UserError(f"{call}: {mistake}") from None


@dataclass(frozen=True)
class Predictions:
    """Predictions of some rows, as the table that is in the file."""

    table: "pd.DataFrame"

    @classmethod
    def of(cls, ids: Any, values: Any, target: Any = None) -> "Predictions":
        """Make predictions of arrays, lists, frames or tensors.

        Raises:
            UserError: an id is missing or not unique, a value is no finite number, a target is missing, or
                the numbers of rows differ.
        """
        import pandas as pd  # late: most runs have no predictions

        parts = {
            "ids": named_columns(ids, "ids", ID),
            "values": number_columns(values, "values", PREDICTION),
        }
        if target is not None:
            parts["target"] = named_columns(target, "target", TARGET)
        if [*parts["ids"]] != [ID]:
            raise UserError("ids should be one column")
        rows = {name: len(next(iter(columns.values()))) for name, columns in parts.items()}
        if len({*rows.values()}) > 1 or not rows["ids"]:
            counts = ", ".join(f"{count} rows of {name}" for name, count in rows.items())
            raise UserError(f"ids and values should have the same rows, not {counts}")
        found = cls(
            pd.DataFrame({key: one for part in parts.values() for key, one in part.items()})
        )
        found._check()
        return found

    @classmethod
    def read(cls, folder: Path, split: str) -> "Predictions | None":
        """Read the predictions from a folder of artifacts; None if it has none of this split."""
        import pandas as pd  # late: see `of`

        file = folder / PREDICTIONS / f"{split}.parquet"
        return cls(pd.read_parquet(file)) if file.exists() else None

    def save(self, folder: Path, split: str) -> Path:
        """Write them to a folder of artifacts, in one step."""
        file = folder / PREDICTIONS / f"{split}.parquet"
        with replace_file(file) as draft:
            self.table.to_parquet(draft, index=False)
        return file

    @property
    def ids(self) -> np.ndarray:
        """The ids [N]."""
        return np.asarray(self.table[ID])

    @property
    def values(self) -> np.ndarray:
        """The predictions, [N] or [N, K]."""
        return self._block(PREDICTION)

    @property
    def target(self) -> np.ndarray | None:
        """The target, [N] or [N, K], if it is known."""
        return self._block(TARGET) if self.columns(TARGET) else None

    def columns(self, kind: str) -> list[str]:
        """The columns of the predictions or of the target."""
        return [name for name in self.table if name == kind or name.startswith(f"{kind}_")]

    def with_values(self, values: np.ndarray) -> "Predictions":
        """The same rows with other predictions."""
        columns = self.columns(PREDICTION)
        return Predictions(
            self.table.assign(**dict(zip(columns, split_columns(values), strict=True)))
        )

    def sorted(self) -> "Predictions":
        """The same in the order of the ids."""
        return Predictions(self.table.sort_values(ID, ignore_index=True))

    def _block(self, kind: str) -> np.ndarray:
        columns = self.columns(kind)
        return np.asarray(self.table[columns[0] if columns == [kind] else columns])

    def _check(self) -> None:
        ids = self.table[ID]
        if ids.isna().any():
            raise UserError(f"row {int(ids.isna().argmax())} has no id")
        kinds = {type(one).__name__ for one in ids} if ids.dtype == object else set()
        if len(kinds) > 1:
            raise UserError(f"ids should be of one type, not {' and '.join(sorted(kinds))}")
        if ids.duplicated().any():
            raise UserError(f"id {ids[ids.duplicated()].iloc[0]} is there twice")
        for name in self.columns(PREDICTION):
            bad = ~np.isfinite(self.table[name])
            if bad.any():
                value = self.table[name][bad].iloc[0]
                raise UserError(
                    f"the {name} of id {ids[bad].iloc[0]} is {value}, not a finite number"
                )
        for name in self.columns(TARGET):
            bad = self.table[name].isna()
            if bad.any():
                raise UserError(f"the {name} of id {ids[bad].iloc[0]} is missing")


def read_predictions(record: RunRecord, split: str) -> Predictions | None:
    """The predictions of a run of the store; None if it has none of this split."""
    folder = find_artifact(record, "")
    return Predictions.read(folder, split) if folder else None


def pool_members(
    group_folder: Path, members: Mapping[Member, Path]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Put the predictions of a group's members together, and write them as the group's own.

    Each out-of-fold row is there once, as the mean over the seeds; a row of the test data is the mean over
    all members.

    Args:
        group_folder: where the group's artifacts are.
        members: the folder of each member's artifacts.

    Returns:
        Target and prediction of the out-of-fold rows, as `score(target, prediction)` takes them; None if the
        members have none, or none with a target.

    Raises:
        UserError: only some members have predictions, a row was held out twice with one seed, or seeds or
            test predictions have different rows, columns or targets.
    """
    test = _read_all(members, TEST)
    if test:
        by_name = {member.name: part for member, part in test.items()}
        _average(TEST, by_name).save(group_folder, TEST)
    folds = _read_all(members, OOF)
    if not folds:
        return None
    pooled = _average(OOF, _join_folds(folds))
    pooled.save(group_folder, OOF)
    return None if pooled.target is None else (pooled.target, pooled.values)


def _average(split: str, parts: Mapping[str, Predictions]) -> Predictions:
    try:
        return average(parts)
    except UserError as mistake:
        raise UserError(f"the {split} predictions don't fit together: {mistake}") from None


def _read_all(members: Mapping[Member, Path], split: str) -> dict[Member, Predictions]:
    found = {member: Predictions.read(folder, split) for member, folder in members.items()}
    have = {member: one for member, one in found.items() if one is not None}
    for member in found if have else ():
        if member not in have:
            other = next(iter(have))
            raise UserError(f"{member.name} has no {split} predictions, but {other.name} has")
    return have


def _join_folds(parts: Mapping[Member, Predictions]) -> dict[str, Predictions]:
    """By seed, the rows of all folds, with a column `fold`."""
    import pandas as pd  # late: see `Predictions.of`

    tables: dict[str, list[pd.DataFrame]] = defaultdict(list)
    first_member, first = next(iter(parts.items()))
    for member, part in parts.items():
        _check_columns(first_member.name, first, member.name, part)
        fold = {} if member.fold is None else {FOLD: member.fold}
        tables[f"seed {member.seed}"].append(part.table.assign(**fold))
    joined = {name: pd.concat(folds, ignore_index=True) for name, folds in tables.items()}
    for name, table in joined.items():
        twice = table[table[ID].duplicated()]
        if len(twice):
            raise UserError(f"{name}: row {twice[ID].iloc[0]} was held out in two folds")
    return {name: Predictions(table) for name, table in joined.items()}


def average(parts: Mapping[str, Predictions]) -> Predictions:
    """The mean of predictions of the same rows, sorted by id.

    Args:
        parts: by the names that a message has for them.

    Raises:
        UserError: they have different rows, columns or targets.
    """
    aligned = align(parts)
    mean = np.mean(np.stack([one.values for one in aligned]), axis=0, dtype=np.float64)
    return aligned[0].with_values(np.asarray(mean))


def align(parts: Mapping[str, Predictions]) -> list[Predictions]:
    """Bring predictions of the same rows into the order of the ids.

    Raises:
        UserError: they have different rows, columns or targets.
    """
    names, ordered = [*parts], [one.sorted() for one in parts.values()]
    for name, one in zip(names[1:], ordered[1:], strict=True):
        _check_same(names[0], ordered[0], name, one)
    return ordered


def _check_same(name: str, one: Predictions, other_name: str, other: Predictions) -> None:
    for left, right, lacks, has in ((one, other, other_name, name), (other, one, name, other_name)):
        missing = left.ids[~left.table[ID].isin(right.table[ID])]
        if len(missing):
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UserError(f"{lacks} lacks row {missing[0]}{more}, which {has} has")
    _check_columns(name, one, other_name, other)
    for column in one.columns(TARGET):
        differ = _differ(one.table[column], other.table[column])
        if differ.any():
            row = one.ids[differ][0]
            raise UserError(f"{other_name} has another {column} of row {row} than {name}")


def _check_columns(name: str, one: Predictions, other_name: str, other: Predictions) -> None:
    for kind in (PREDICTION, TARGET):
        columns, others = one.columns(kind), other.columns(kind)
        if columns != others:
            raise UserError(
                f"{name} has {_join(columns, kind)}, but {other_name} has {_join(others, kind)}"
            )


def _join(columns: list[str], kind: str) -> str:
    return f"the columns {', '.join(columns)}" if columns else f"no {kind}"


def _differ(one: "pd.Series", other: "pd.Series") -> np.ndarray:
    """Where two targets differ; libraries compute with 32 or 64 bits."""
    left, right = np.asarray(one), np.asarray(other)
    if left.dtype.kind == right.dtype.kind == "f":
        return np.asarray(~np.isclose(left, right, rtol=1e-5))
    return np.asarray(left != right)
