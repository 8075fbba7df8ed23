"""Studies travel with their runs, as one SQLite file of Optuna each."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from src.utils.transfer.place import Place
from src.utils.transfer.portable import STUDY, PortableRun

STUDY_FILE = "study.db"  # a study on its way


def move_studies(source: Place, target: Place, runs: Sequence[PortableRun]) -> list[str]:
    """Bring the studies of some runs to another place; returns the names of those that were written."""
    names = dict.fromkeys(run.tags[STUDY] for run in runs if STUDY in run.tags)
    return [name for name in names if _move_study(source, target, name)]


def _move_study(source: Place, target: Place, name: str) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / STUDY_FILE
        return source.read_study(name, draft) and target.write_study(name, draft)
