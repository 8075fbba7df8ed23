"""What a project has beside its runs: studies, data versions and the code of runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from src.utils.paths import LOGS
from src.utils.runs.kept_code import KEPT, add_commits, is_kept
from src.utils.store.location import SQLITE
from src.utils.transfer.place import Place
from src.utils.transfer.version_files import VersionFolder, Versions


class ProjectFiles(Place):
    """The part of a place that is the same wherever the project has its runs."""

    project: Path  # the folder that has `_data`
    logs: Path  # the folder that has the studies and the code of runs

    def read_study(self, name: str, draft: Path) -> bool:
        from src.utils.transfer.study_files import read_study  # late: it imports Optuna

        return read_study(self.studies, name, draft)

    def write_study(self, name: str, file: Path) -> bool:
        from src.utils.transfer.study_files import write_study  # late: it imports Optuna

        return write_study(self.studies, name, file, self.experiment_number)

    def experiment_number(self, name: str) -> str:
        """The number of an experiment in the store, as it stands in links to its pages."""
        raise NotImplementedError

    @property
    def studies(self) -> str:
        """The address of the studies, as Optuna takes it."""
        from src.utils.transfer.study_files import study_storage  # late: it imports Optuna

        is_own = self.logs == LOGS
        return study_storage() if is_own else f"{SQLITE}{self.logs / 'optuna' / 'optuna.db'}"

    def versions(self) -> Versions | None:
        return VersionFolder(self.project / "_data" / "versions")

    def has_code(self, commit: str) -> bool:
        return is_kept(commit, self.logs / KEPT.name)

    @contextmanager
    def repositories(self, commits: Sequence[str]) -> Iterator[list[Path]]:
        yield [self.logs / KEPT.name, self.project]

    def add_code(self, repository: Path, commits: Sequence[str]) -> None:
        add_commits(self.logs / KEPT.name, repository, commits)
