"""Where things lie. Nothing names its own path: it all follows from where a file is.

src/model/model01/…py   the code of the experiment `model/model01`
config/model/model01/   its settings          _data/feature/feature01/   what a stage made
"""

from dataclasses import dataclass
from pathlib import Path

from src.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
DATA = {"dataset": ROOT / "_data" / "data", "feature": ROOT / "_data" / "feature"}
STAGES = ("dataset", "feature", "model")
LOGS = ROOT / "logs"
STUDIES = LOGS / "optuna" / "optuna.db"


def display_path(path: Path) -> Path:
    """A path as it is typed in the root of the repository."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


@dataclass(frozen=True)
class Experiment:
    """A folder `src/<stage>/<name>` and all that belongs to it."""

    stage: str
    name: str

    @classmethod
    def of(cls, file: str | Path) -> "Experiment | None":
        """The experiment whose code `file` is, if it is any's."""
        path = Path(file).resolve()
        parts = path.relative_to(ROOT).parts if path.is_relative_to(ROOT) else ()
        match parts:
            case ("src", stage, name, _, *_) if stage in STAGES:
                return cls(stage, name)
        return None

    @classmethod
    def named(cls, name: str) -> "Experiment":
        """`model/model01`, as MLflow calls it."""
        stage, _, folder = name.partition("/")
        return cls(stage, folder)

    def __str__(self) -> str:
        return f"{self.stage}/{self.name}"

    @property
    def source(self) -> Path:
        return ROOT / "src" / self.stage / self.name

    @property
    def config(self) -> Path:
        return ROOT / "config" / self.stage / self.name

    @property
    def data(self) -> Path:
        """Where a dataset or feature lies; a model makes none."""
        return DATA[self.stage] / self.name

    def next(self) -> "Experiment":
        """model01 -> model02, or the first number after it that is free."""
        stem = self.name.rstrip("0123456789")
        digits = self.name.removeprefix(stem)
        number, width = int(digits or 1) + 1, len(digits) or 2
        while (self.source.parent / f"{stem}{number:0{width}}").exists():
            number += 1
        return Experiment(self.stage, f"{stem}{number:0{width}}")

    def program(self) -> Path:
        """The one file of the folder that is run: the one with `@experiment` in it."""
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
