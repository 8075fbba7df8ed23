"""The exchange folder: runs as files, on a USB stick, a shared disk, or wherever rsync brings them.

    WHERE/runs/<run id>/artifacts/       the files of the run
    WHERE/runs/<run id>/metrics.json     the histories of its metrics
    WHERE/runs/<run id>/run.json         all else; where it is, the run is complete
    WHERE/studies/<name>.db              a study with its trials
    WHERE/data/<stage>/<name>/<digest>/  a version of data
    WHERE/code.git                       the commits of runs

There is no database that a copy in the middle of a write, or two writers at once, could break.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from src.utils.errors import UserError
from src.utils.files import replace_file
from src.utils.runs.kept_code import KEPT, add_commits, is_kept
from src.utils.transfer.artifacts import copy_files
from src.utils.transfer.lock import writer_lock
from src.utils.transfer.place import Copied, Place, Report
from src.utils.transfer.portable import PortableRun
from src.utils.transfer.version_files import VersionFolder, Versions

RUNS = "runs"  # the folder that makes a folder an exchange folder
STUDIES, DATA = "studies", "data"
RUN, METRICS, ARTIFACTS = "run.json", "metrics.json", "artifacts"


class FolderPlace(Place):
    """An exchange folder. It need not exist before something is written."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder

    def runs(self) -> list[PortableRun]:
        files = sorted(self.folder.glob(f"{RUNS}/*/{RUN}"))
        return [PortableRun.from_dict(_read_json(file)) for file in files]

    def read(self, run_id: str) -> PortableRun:
        folder = self._run_folder(run_id)
        history = _read_json(folder / METRICS)
        return PortableRun.from_dict(_read_json(folder / RUN) | {"history": history})

    @contextmanager
    def artifacts(self, run: PortableRun) -> Iterator[Path]:
        yield self._run_folder(run.id) / ARTIFACTS

    def write_artifacts(self, run: PortableRun, source: Path, report: Report) -> Copied:
        return copy_files(source, self._run_folder(run.id) / ARTIFACTS, report)

    def write(self, run: PortableRun) -> None:
        values, folder = run.as_dict(), self._run_folder(run.id)
        _write_json(folder / METRICS, values.pop("history"), indent=None)
        _write_json(folder / RUN, values, indent=1)

    def lock(self) -> AbstractContextManager[object]:
        (self.folder / RUNS).mkdir(parents=True, exist_ok=True)
        return writer_lock(self.folder / ".lock", self.name)

    def read_study(self, name: str, draft: Path) -> bool:
        from src.utils.transfer.study_files import read_study_file  # late: it imports Optuna

        return read_study_file(self.folder / STUDIES, name, draft)

    def write_study(self, name: str, file: Path) -> bool:
        from src.utils.transfer.study_files import write_study_file  # late: it imports Optuna

        return write_study_file(self.folder / STUDIES, name, file)

    def versions(self) -> Versions | None:
        return VersionFolder(self.folder / DATA)

    def has_code(self, commit: str) -> bool:
        return is_kept(commit, self.folder / KEPT.name)

    def repositories(self, commits: Sequence[str]) -> AbstractContextManager[list[Path]]:
        return nullcontext([self.folder / KEPT.name])

    def add_code(self, repository: Path, commits: Sequence[str]) -> None:
        add_commits(self.folder / KEPT.name, repository, commits)

    def _run_folder(self, run_id: str) -> Path:
        return self.folder / RUNS / run_id


def _read_json(file: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(file.read_text())
    except ValueError:
        raise UserError(
            f"{file} is damaged: remove it, and push its run again from where it ran"
        ) from None
    return values


def _write_json(file: Path, values: dict[str, Any], indent: int | None) -> None:
    with replace_file(file) as draft:
        draft.write_text(json.dumps(values, indent=indent, allow_nan=False) + "\n")
