"""What a place must be able to do, so that runs can come from it and go to it.

The own store, another clone, a folder of files, a server: `src/utils/transfer/move.py` knows no difference.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple, Protocol

from src.utils.transfer.portable import PortableRun
from src.utils.transfer.version_files import Versions

Report = Callable[
    [int], None
]  # is called with the number of bytes that were written since the last call


class Copied(NamedTuple):
    """How much was written. What was there already does not count."""

    files: int = 0
    size: int = 0  # in bytes

    def plus(self, other: "Copied") -> "Copied":
        """The sum of both."""
        return Copied(self.files + other.files, self.size + other.size)


class Place(Protocol):
    """A place where runs lie. A class that inherits from it has the methods that have a body."""

    name: str  # as it was typed, without a password; for messages

    # Runs

    def runs(self) -> list[PortableRun]:
        """All runs, without the histories of their metrics; those that were deleted here, too.

        Raises:
            UserError: the place can't be read.
        """

    def read(self, run_id: str) -> PortableRun:
        """One of these runs as it is now, with the histories of its metrics."""

    def with_history(self, run: PortableRun) -> PortableRun:
        """A listed run with the histories of its metrics; for many, this may be faster than `read`."""
        return self.read(run.id)

    def artifacts(self, run: PortableRun) -> AbstractContextManager[Path]:
        """The folder of a run's artifacts on this machine; a download is removed afterwards.

        The folder need not exist.
        """

    def write_artifacts(self, run: PortableRun, source: Path, report: Report) -> Copied:
        """Write the artifacts of a run from a folder; what is there already is left out."""

    def write(self, run: PortableRun) -> None:
        """Write a run with its history in one step, in place of what was known of it here."""

    def lock(self) -> AbstractContextManager[object]:
        """Held while something is written; another process that writes here waits."""
        return nullcontext()

    keeps_files: bool = True  # whether studies and data have a place here, beside runs and code

    # What belongs to runs. A place that keeps nothing of a kind inherits these.

    def read_study(self, name: str, draft: Path) -> bool:
        """Write a study with its trials to a new SQLite file of Optuna; False if it is not here."""
        return False

    def write_study(self, name: str, file: Path) -> bool:
        """Take a study over from a SQLite file of Optuna; False if nothing was to be done."""
        return False

    def versions(self) -> Versions | None:
        """The data versions that are kept here; None: data are not kept here."""
        return None

    def has_code(self, commit: str) -> bool:
        """Whether the commit of a run is kept here."""
        return False

    def repositories(self, commits: Sequence[str]) -> AbstractContextManager[list[Path]]:
        """The git repositories, on this machine, that may have some commits; they need not exist."""
        return nullcontext([])

    def add_code(self, repository: Path, commits: Sequence[str]) -> None:
        """Keep commits of a repository on this machine, without their history.

        Raises:
            GitError: git has failed.
        """
        return
