"""The store of this project, served to `lab push` and `lab pull` of another machine over ssh.

    python -m src.utils.transfer.remote

Each line of the input is a call in JSON, `["read", "<run id>"]`; each answer is a line that begins with
`MARK`. Files don't go through here: rsync brings them to and from the folders that calls name.
"""

import json
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from src.utils.errors import format_error
from src.utils.paths import ROOT, Experiment
from src.utils.pipeline.manifest import Manifest
from src.utils.runs.git import has_commit
from src.utils.runs.kept_code import KEPT, add_commits
from src.utils.transfer.host import MARK
from src.utils.transfer.portable import PortableRun
from src.utils.transfer.studies import STUDY_FILE
from src.utils.transfer.version_files import Versions
from src.utils.transfer.where import own_place

INBOX = ROOT / "outputs" / "transfer"  # files that have come, before they are taken over


class Served:
    """The calls, which are named as the methods of a `Place`."""

    def __init__(self) -> None:
        self.place = own_place()
        self.opened = ExitStack()  # what the last call has given a folder of
        self.locked = ExitStack()

    def answer(self, call: str, *arguments: Any) -> Any:
        """The answer to one call."""
        self.opened.close()
        return getattr(self, call)(*arguments)

    def runs(self) -> list[dict[str, Any]]:
        return [run.as_dict() for run in self.place.runs()]

    def read(self, run_id: str) -> dict[str, Any]:
        return self.place.read(run_id).as_dict()

    def artifacts(self, run: dict[str, Any]) -> str:
        """The folder of a run's artifacts."""
        return str(self.opened.enter_context(self.place.artifacts(PortableRun.from_dict(run))))

    def inbox(self, name: str) -> str:
        """The folder for files that are to come."""
        return str(INBOX / name)

    def write_artifacts(self, run: dict[str, Any], name: str) -> None:
        self.place.write_artifacts(PortableRun.from_dict(run), INBOX / name, lambda _: None)
        shutil.rmtree(INBOX / name, ignore_errors=True)

    def lock(self) -> None:
        self.locked.enter_context(self.place.lock())

    def unlock(self) -> None:
        self.locked.close()

    def write(self, run: dict[str, Any]) -> None:
        self.place.write(PortableRun.from_dict(run))

    def read_study(self, name: str) -> str | None:
        """The folder with the file of a study."""
        folder = self._temporary_folder()
        return str(folder) if self.place.read_study(name, folder / STUDY_FILE) else None

    def write_study(self, name: str, folder: str) -> bool:
        changed = self.place.write_study(name, INBOX / folder / STUDY_FILE)
        shutil.rmtree(INBOX / folder)
        return changed

    def missing_code(self, commits: list[str]) -> list[str]:
        return [commit for commit in commits if not self.place.has_code(commit)]

    def repository(self, commits: list[str]) -> str:
        """A repository with those of some commits that are here."""
        repository = self._temporary_folder() / KEPT.name
        with self.place.repositories(commits) as known:
            for one in known:
                found = [commit for commit in commits if has_commit(one, commit)]
                add_commits(repository, one, found)
        return str(repository)

    def add_code(self, name: str, commits: list[str]) -> None:
        self.place.add_code(INBOX / name, commits)
        shutil.rmtree(INBOX / name)

    def find_version(self, experiment: str, digest: str) -> dict[str, Any] | None:
        found = self._versions.find(Experiment.named(experiment), digest)
        return found.to_json() if found else None

    def missing_files(self, manifest: dict[str, Any]) -> list[str]:
        return self._versions.missing(Manifest.from_json(manifest))

    def open_version(self, experiment: str, digest: str) -> list[Any]:
        """The folder of a version, and its builds."""
        found = self._versions.find(Experiment.named(experiment), digest)
        assert found is not None  # `find_version` has found it
        folder = self.opened.enter_context(self._versions.open(found, [*found.files]))
        return [str(folder), self._versions.builds(found)]

    def add_version(self, manifest: dict[str, Any], name: str, builds: dict[str, str]) -> None:
        for _ in self._versions.add(Manifest.from_json(manifest), INBOX / name, builds):
            pass
        shutil.rmtree(INBOX / name, ignore_errors=True)

    def _temporary_folder(self) -> Path:
        return Path(self.opened.enter_context(TemporaryDirectory()))

    @property
    def _versions(self) -> Versions:
        found = self.place.versions()
        assert found is not None  # a project has them
        return found


def main() -> None:
    """Answer calls until the input ends."""
    served: Served | None = None
    for line in sys.stdin:
        try:
            served = served or Served()
            answer = {"answer": served.answer(*json.loads(line))}
        except Exception as error:  # whatever it is: the other machine says it in one line
            answer = {"error": format_error(error)}
        print(f"{MARK}{json.dumps(answer)}", flush=True)


if __name__ == "__main__":
    main()
