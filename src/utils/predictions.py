"""Predictions of runs, kept as parquet."""

from pathlib import Path
from typing import Any


def pool_members(group_folder: Path, members: list[Path]) -> Any:
    """Put the predictions of a group's members together; None without a target."""
    return None
