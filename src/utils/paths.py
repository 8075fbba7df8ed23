"""Paths of the repository, and the folders of an experiment.

    src/model/model01/…py       code of the experiment `model/model01`
    config/model/model01/       its settings
    _data/feature/feature01/    what the experiment `feature/feature01` made

An experiment is identified by the folder of its file. No file contains its own path.
"""

from dataclasses import dataclass
from pathlib import Path

from src.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
# Folders of the data that each stage makes; a model makes none
DATA = {"dataset": ROOT / "_data" / "data", "feature": ROOT / "_data" / "feature"}
SAVED = "model"  # the artifact folder of what `run.save` writes
PREDICTIONS = "predictions"  # … and of `run.predictions`
STAGES = ("dataset", "feature", "model")
LOGS = ROOT / "logs"
STUDIES = LOGS / "optuna" / "optuna.db"  # Optuna's default storage here


def display_path(path: Path) -> Path:
    """A path relative to the repository's root, if it is inside."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


@dataclass(frozen=True)
class Experiment:
    """A folder `src/<stage>/<name>`, with its settings and data."""

    stage: str
    name: str

    @classmethod
    def of(cls, file: str | Path) -> "Experiment | None":
        """The experiment that a source file belongs to, if any."""
        path = Path(file).resolve()
        parts = path.relative_to(ROOT).parts if path.is_relative_to(ROOT) else ()
        match parts:
            case ("src", stage, name, _, *_) if stage in STAGES:
                return cls(stage, name)
        return None

    @classmethod
    def named(cls, name: str) -> "Experiment":
        """The experiment `model/model01`, as its MLflow experiment is named."""
        stage, _, folder = name.partition("/")
        return cls(stage, folder)

    def __str__(self) -> str:
        return f"{self.stage}/{self.name}"

    @property
    def source(self) -> Path:
        """Its folder in `src`."""
        return ROOT / "src" / self.stage / self.name

    @property
    def config(self) -> Path:
        """Its folder in `config`."""
        return ROOT / "config" / self.stage / self.name

    @property
    def data(self) -> Path:
        """The folder of a dataset's or feature's data. A model has none."""
        return DATA[self.stage] / self.name

    def next(self) -> "Experiment":
        """The next free name: model02 after model01."""
        stem = self.name.rstrip("0123456789")
        digits = self.name.removeprefix(stem)
        number, width = int(digits or 1) + 1, len(digits) or 2
        while (self.source.parent / f"{stem}{number:0{width}}").exists():
            number += 1
        return Experiment(self.stage, f"{stem}{number:0{width}}")

    def program(self) -> Path:
        """The file in its folder that has `@experiment` in it.

        Raises:
            UserError: no file has it, or several have.
        """
        files = sorted(self.source.glob("*.py"))
        programs = [file for file in files if "\n@experiment\n" in file.read_text()]
        match programs:
            case [program]:
                return program
            case []:
                raise UserError(f"no program in src/{self}: one file there needs an @experiment")
            case _:
                names = ", ".join(file.name for file in programs)
                raise UserError(f"src/{self} has several programs ({names}): keep one @experiment")
