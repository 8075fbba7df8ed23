"""Paths of the repository, and the folders of an experiment.

    src/model/model01/…py       code of the experiment `model/model01`
    config/model/model01/       its settings
    _data/feature/feature01/    what the experiment `feature/feature01` made: a link to the version in use

An experiment is identified by the folder of its file. No file contains its own path.
Any folder of `src` is a stage: `src/embedding/embedding01/…py` is an experiment of the stage `embedding`.

A linked worktree (`git worktree add ../idea`) has its own code, settings and outputs. Runs, studies and logs
of all worktrees are in `logs/` of the main checkout, versions of data in `_data/versions`.
"""

from dataclasses import dataclass
from pathlib import Path

from src.utils.errors import UserError


def find_main_checkout(root: Path) -> Path:
    """The main checkout of the repository that a linked worktree belongs to; any other folder itself.

    What is checked out from `logs/code.git` belongs to the folder of these logs. A copy of a worktree, and a
    worktree of another bare repository or of one that is not here, stand alone. A project in a subfolder of a
    repository belongs to that subfolder of the main checkout.
    """
    top = next((folder for folder in (root, *root.parents) if (folder / ".git").exists()), root)
    if top != root:
        found = find_main_checkout(top) / root.relative_to(top)
        return found if (found / "src" / "utils").is_dir() else root
    try:
        git = root / (root / ".git").read_text().removeprefix("gitdir:").strip()
        common = (git / (git / "commondir").read_text().strip()).resolve()
        owner = Path((git / "gitdir").read_text().strip())  # relative to `git`, or absolute
    except OSError:  # .git is a folder, or there is none; a submodule has no commondir
        return root
    is_copy = (git / owner).exists() and not (git / owner).samefile(root / ".git")
    if is_copy:
        return root
    is_kept_code = common.parts[-2:] == ("logs", "code.git")
    return common.parents[1] if is_kept_code else common.parent if common.name == ".git" else root


ROOT = Path(__file__).resolve().parents[2]
MAIN_CHECKOUT = find_main_checkout(ROOT)
DATA = ROOT / "_data"
VERSIONS = MAIN_CHECKOUT / "_data" / "versions"  # of all data, by the digest of their content
DATASETS = "data"  # the folder in _data of the stage `dataset`; any other has the stage's name
STAGES = ("dataset", "feature", "model")  # that every project has, empty or not
NO_STAGES = {"utils", DATASETS, "sample", "versions"}  # folders of src and _data for other purposes
SAVED = "model"  # the artifact folder of what `run.save` writes
PREDICTIONS = "predictions"  # … and of `run.predictions`
LOGS = MAIN_CHECKOUT / "logs"
ENVIRONMENTS = MAIN_CHECKOUT / "outputs" / "environments"  # of `lab rerun --packages`
STUDIES = LOGS / "optuna" / "optuna.db"  # Optuna's default storage here


def display_path(path: Path) -> Path:
    """A path relative to the repository's root, if it is inside."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def find_other_project(path: Path) -> Path | None:
    """The root of another copy or worktree of this project, if a path is inside one."""
    here = Path(__file__).resolve().relative_to(ROOT)
    folders = (path.resolve(), *path.resolve().parents)
    root = next((folder for folder in folders if (folder / here).exists()), ROOT)
    return None if root.samefile(ROOT) else root


def remote_run_folder(run_id: str) -> Path:
    """The local folder of the artifacts of a run that a remote store has."""
    return LOGS / "lightning" / run_id


def is_stage(name: str) -> bool:
    """Whether the folders in `src/<name>` are experiments."""
    return name.isidentifier() and name not in NO_STAGES and not name.startswith("_")


def list_stages() -> list[str]:
    """The stages that have code or data here, and those of every project; by name, models last."""
    folders = (*(ROOT / "src").glob("*/"), *DATA.glob("*/"))
    stages = {*STAGES, *filter(is_stage, (folder.name for folder in folders))}
    return sorted(stages, key=lambda stage: (stage == "model", stage))


def data_folder(stage: str) -> Path:
    """The folder of the data that the experiments of a stage make."""
    return DATA / (DATASETS if stage == "dataset" else stage)


def is_program(file: Path) -> bool:
    """Whether a source file has an `@experiment`."""
    return "\n@experiment\n" in file.read_text()


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
            case ("src", stage, name, _, *_) if is_stage(stage):
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
        """The folder of the data that it makes. A model makes none."""
        return data_folder(self.stage) / self.name

    def next(self) -> "Experiment":
        """The next free name: model02 after model01."""
        stem = self.name.rstrip("0123456789")
        digits = self.name.removeprefix(stem)
        number, width = int(digits or 1) + 1, len(digits) or 2
        while (self.source.parent / f"{stem}{number:0{width}}").exists():
            number += 1
        return Experiment(self.stage, f"{stem}{number:0{width}}")

    def check_name(self) -> None:
        """Check that the name is free for an experiment.

        Raises:
            UserError: a command of `lab` records its own runs under this name.
        """
        if self == BLENDS:
            raise UserError(
                f"{self} is refused: lab blend records its runs under this name; "
                f"give src/{self} and config/{self} another one"
            )

    def program(self) -> Path:
        """The file in its folder that has `@experiment` in it.

        Raises:
            UserError: no file has it, or several have.
        """
        match sorted(filter(is_program, self.source.glob("*.py"))):
            case [program]:
                return program
            case []:
                raise UserError(f"no program in src/{self}: one file there needs an @experiment")
            case programs:
                names = ", ".join(file.name for file in programs)
                raise UserError(f"src/{self} has several programs ({names}): keep one @experiment")


BLENDS = Experiment("model", "blend")  # the MLflow experiment of `lab blend`, without folders
