"""The code of runs, kept once for each commit: `logs/code.git`, a bare git repository without history.

A commit that a run had is there under `refs/commits/<id>`, whatever becomes of it in the project's own
repository; commits share the files that are equal. What was not committed is the run's own `changes.patch`.

Where the store is elsewhere, as on an MLflow server, the first run of a commit has it as the artifact
`provenance/code.pack` as well, and its id in a tag of that name.
"""

import logging
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from src.utils.errors import one_line
from src.utils.files import replace_file
from src.utils.paths import LOGS, ROOT
from src.utils.runs.git import GitError, git
from src.utils.runs.member import is_one_of_many
from src.utils.store.location import DEFAULT_DATABASE, local_database

from filelock import FileLock, Timeout
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)
KEPT = LOGS / "code.git"
PACK = "code.pack"  # the file, and the tag of the run that has it
COMMITS = "refs/commits"
# What git leaves where it is killed
LEFT_BEHIND = ("*.lock", f"{COMMITS}/*.lock", "objects/pack/tmp_*")
LONGEST_WAIT = 60.0  # seconds, for another process


def keep_code(commit: str, source: Path = ROOT) -> None:
    """Keep a commit of this project. What goes wrong is a warning: the run goes on.

    Args:
        commit: empty in a repository without commits, where the run's patch has everything.
        source: the repository that has it: this one, or a submodule.
    """
    if not commit or is_kept(commit, KEPT):
        return
    try:
        add_commits(KEPT, source, [commit])
    except (GitError, OSError, Timeout) as error:
        _warn(commit, error)


def is_kept(commit: str, repository: Path = KEPT) -> bool:
    """Whether a repository of kept code has a commit; no git process is needed to say so."""
    if (repository / COMMITS / commit).is_file():
        return True
    packed = repository / "packed-refs"
    return packed.is_file() and f" {COMMITS}/{commit}\n" in packed.read_text()


def add_commits(repository: Path, source: Path, commits: Iterable[str]) -> None:
    """Add commits, without their history, to a repository of kept code, which is made if there is none.

    A process that is killed at any moment leaves a repository to which the next one can add.

    Args:
        source: a repository that has the commits: a checkout, or one of kept code.

    Raises:
        GitError: git has failed: the disk is full, or the source lacks a commit.
        OSError: the folder can't be written to.
        Timeout: another process has been adding to it for a minute.
    """
    with _opened(repository):
        missing = [commit for commit in commits if not is_kept(commit, repository)]
        if missing:
            _copy_objects(repository, source, missing)
            _refer(repository, missing)


def share_code(client: MlflowClient, run_id: str, commit: str) -> None:
    """Upload a kept commit with a run, if the store is elsewhere and none of its runs has it yet.

    A trial or member never does: its study or group has done so. What goes wrong is a warning.
    """
    is_here = local_database() == DEFAULT_DATABASE.resolve()
    if is_here or is_one_of_many() or not commit or not is_kept(commit):
        return
    try:
        if _find_holder(client, commit, ViewType.ACTIVE_ONLY) is None:
            with tempfile.TemporaryDirectory() as folder:
                client.log_artifact(run_id, str(pack_commit(commit, Path(folder))), "provenance")
            client.set_tag(run_id, PACK, commit)
    except (GitError, OSError, MlflowException) as error:
        _warn(commit, error)


def pack_commit(commit: str, folder: Path) -> Path:
    """Write a kept commit to a file in a folder.

    Raises:
        GitError: git has failed.
    """
    pack = folder / PACK
    arguments = ("pack-objects", "--quiet", "--revs", "--stdout")
    git(KEPT, *arguments, stdin=commit.encode(), output=pack)
    return pack


def fetch_code(client: MlflowClient, commit: str) -> bool:
    """Take a commit from the run of the store that has it; returns whether it is kept here then.

    Raises:
        GitError: git has failed.
        OSError: the folder can't be written to.
        Timeout: another process has been adding to it for a minute.
    """
    holder = None if is_kept(commit) else _find_holder(client, commit, ViewType.ALL)
    if holder is not None:
        with tempfile.TemporaryDirectory() as folder:
            pack = client.download_artifacts(holder, f"provenance/{PACK}", folder)
            _unpack(Path(pack), commit)
    return is_kept(commit)


def _warn(commit: str, error: Exception) -> None:
    log.warning("commit %s is not kept for reruns: %s", commit[:8], one_line(error))


@contextmanager
def _opened(repository: Path) -> Iterator[None]:
    """Be the one process that writes to a repository of kept code; what a killed one left is removed."""
    repository.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(repository.with_name(f".{repository.name}.lock"), timeout=LONGEST_WAIT):
        _remove_left_behind(repository)
        git(repository.parent, "init", "--quiet", "--bare", "--template=", repository.name)
        try:
            yield
        finally:
            _remove_left_behind(repository)


def _remove_left_behind(repository: Path) -> None:
    for pattern in LEFT_BEHIND:
        for file in repository.glob(pattern):
            file.unlink()


def _find_holder(client: MlflowClient, commit: str, view: int) -> str | None:
    """The run that has a commit among its artifacts."""
    experiments = [one.experiment_id for one in client.search_experiments(ViewType.ALL)]
    found = client.search_runs(experiments, f"tags.`{PACK}` = '{commit}'", view, max_results=1)
    return found[0].info.run_id if found else None


def _unpack(pack: Path, commit: str) -> None:
    """Add a commit from a file."""
    with _opened(KEPT):
        _add_pack(KEPT, pack, commit)
        _refer(KEPT, [commit])


def _copy_objects(repository: Path, source: Path, commits: list[str]) -> None:
    """Copy what the repository lacks: files that are equal in several commits are there once."""
    listed = git(source, "rev-list", "--objects", "--no-walk=unsorted", *commits).splitlines()
    names = b"\n".join(line.split(b" ")[0] for line in listed)
    answers = git(repository, "cat-file", "--batch-check", stdin=names).splitlines()
    missing = [
        one for one, answer in zip(listed, answers, strict=True) if answer.endswith(b" missing")
    ]
    if missing:
        draft = repository / "objects" / "pack" / "tmp_code"
        arguments = ("pack-objects", "--quiet", "--stdout")
        git(source, *arguments, stdin=b"\n".join(missing), output=draft)
        _add_pack(repository, draft, commits[0])


def _add_pack(repository: Path, pack: Path, name: str) -> None:
    packed = repository / "objects" / "pack" / f"pack-{name}.pack"
    shutil.move(pack, packed)
    git(repository, "index-pack", str(packed))


def _refer(repository: Path, commits: list[str]) -> None:
    """Set the references, by which commits are known to be there whole. Git joins packs if there are many."""
    ends = repository / "shallow"  # the commits whose history is not there
    known = ends.read_text().split() if ends.exists() else []
    with replace_file(ends) as draft:
        draft.write_text("".join(f"{commit}\n" for commit in dict.fromkeys([*known, *commits])))
    created = "".join(f"create {COMMITS}/{commit} {commit}\n" for commit in commits)
    git(repository, "update-ref", "--stdin", stdin=created.encode())
    git(repository, "gc", "--auto", "--quiet")
