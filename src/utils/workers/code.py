"""The code that workers run: the working tree as it was when they were submitted.

It lies in `logs/workers/code/<digest of its content>`, a linked worktree at the commit that is checked out,
with all changes and with untracked files, but not those that git ignores. Later edits change nothing for
workers that wait. Equal code is there once. As in any linked worktree, runs there record commit and changes,
and have their logs and data in the main checkout.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from src.utils.errors import UserError
from src.utils.paths import ROOT
from src.utils.runs.git import GitError, git
from src.utils.workers.job import JOBS, saved_jobs
from src.utils.workers.states import ask_engines

from filelock import FileLock

CODE = JOBS / "code"
MAX_UNTRACKED = 2**30  # bytes
REPOSITORY = "160000"  # git's mode of a repository inside another one


@dataclass(frozen=True)
class Snapshot:
    """The content of a repository: of this project, or of a submodule or clone inside it."""

    path: str  # in the outermost one
    commit: str
    tree: str  # with changes and untracked files


def fix_code(is_dry: bool = False) -> Path:
    """Copy the working tree to the folder of its content, unless it is there.

    Args:
        is_dry: say only where it would be.

    Returns:
        The folder of this project in the copy.

    Raises:
        UserError: there is no git repository or no commit, or untracked files are large.
    """
    try:
        top = Path(git(ROOT, "rev-parse", "--show-toplevel").decode().rstrip("\n"))
        git(ROOT, "rev-parse", "--verify", "--quiet", "HEAD")
    except GitError:
        raise UserError(
            "workers elsewhere run a copy of the code, which git makes of a commit, and there is none: "
            "git init, git add . and git commit make one"
        ) from None
    with tempfile.TemporaryDirectory() as drafts:
        try:
            return _fix(top, Path(drafts), is_dry) / ROOT.relative_to(top.resolve())
        except GitError as error:
            raise UserError(f"the code can't be copied for the workers: {error}") from None


def unused_code() -> list[Path]:
    """The folders of code whose workers have all ended, as their engines say."""
    there = {folder.name: folder for folder in sorted(CODE.glob("[!.]*/"))}
    jobs = [job for job in saved_jobs() if _top(job.code) in there]
    used = {_top(one.job.code) for one in ask_engines(jobs) if not one.have_ended}
    return [folder for name, folder in there.items() if name not in used]


def _fix(top: Path, drafts: Path, is_dry: bool) -> Path:
    snapshots = list(_take_all(top, "", drafts))
    content = json.dumps([asdict(one) for one in snapshots])
    folder = CODE / hashlib.sha256(content.encode()).hexdigest()[:16]
    if is_dry:
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder):
        if not (_ready(folder).exists() and folder.is_dir()):
            _remove(folder)  # a process that was killed may have left a part
            for one in snapshots:
                _check_out(top / one.path, one, folder / one.path, drafts)
            _ready(folder).touch()
    return folder


def _take_all(top: Path, path: str, drafts: Path) -> Iterator[Snapshot]:
    """Snapshots of a repository, and of those that are checked out inside it."""
    repository = top / path
    inner = [name.rstrip("/") for name in _untracked(repository) if name.endswith("/")]
    with tempfile.TemporaryDirectory() as folder:
        environment = _environment(repository, drafts) | {"GIT_INDEX_FILE": f"{folder}/index"}
        own = Path(_git_path(repository, "index"))
        if own.exists():
            shutil.copy2(own, folder)  # git's own stays as it is
        _stage_all(repository, environment)
        tree = git(repository, "write-tree", environment=environment).decode().strip()
        listed = git(repository, "ls-files", "--stage", "-z", environment=environment)
    commit = git(repository, "rev-parse", "HEAD").decode().strip()
    yield Snapshot(path, commit, tree)
    entries = [line.partition("\t") for line in listed.decode().split("\0")]
    inner += [name for entry, _, name in entries if entry.startswith(REPOSITORY)]
    for name in inner:
        if _has_commit(repository / name):
            yield from _take_all(top, str(Path(path, name)), drafts)


def _stage_all(repository: Path, environment: dict[str, str]) -> None:
    """Add changes, deletions and untracked files to the index of the environment."""
    files = [name for name in _untracked(repository) if not name.endswith("/")]
    sizes = {name: (repository / name).lstat().st_size for name in files}
    if sum(sizes.values()) > MAX_UNTRACKED:
        largest = max(files, key=lambda name: sizes[name])
        raise UserError(
            f"untracked files are copied for the workers, and {repository / largest} is too large for that "
            f"({sizes[largest] / 2**30:.1f} GiB): have .gitignore name it"
        )
    git(repository, "add", "--update", environment=environment)
    add = ("update-index", "--add", "--remove", "-z", "--stdin")
    git(repository, *add, stdin="\0".join(files).encode(), environment=environment)


def _untracked(repository: Path) -> list[str]:
    """Untracked files; a repository among them ends with a slash."""
    listed = git(repository, "ls-files", "--others", "--exclude-standard", "-z").decode()
    return [name for name in listed.split("\0") if os.path.lexists(repository / name) and name]


def _check_out(repository: Path, snapshot: Snapshot, folder: Path, drafts: Path) -> None:
    """Make a linked worktree in which what was not committed is not committed."""
    add = ("worktree", "add", "--force", "--quiet", "--detach", "--no-checkout")
    git(repository, *add, str(folder), snapshot.commit)
    environment = _environment(repository, drafts)
    git(folder, "read-tree", snapshot.tree, environment=environment)
    git(folder, "checkout-index", "--all", environment=environment)
    git(folder, "read-tree", "HEAD")


def _environment(repository: Path, drafts: Path) -> dict[str, str]:
    """Has git write objects to a folder of their own: the repository does not grow."""
    return {
        "GIT_OBJECT_DIRECTORY": str(drafts),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": _git_path(repository, "objects"),
    }


def _git_path(repository: Path, name: str) -> str:
    arguments = ("rev-parse", "--path-format=absolute", "--git-path", name)
    return git(repository, *arguments).decode().rstrip("\n")


def _has_commit(folder: Path) -> bool:
    """Whether it is a repository, and not a submodule that is not checked out."""
    with suppress(GitError):
        return (folder / ".git").exists() and bool(git(folder, "rev-parse", "--verify", "HEAD"))
    return False


def _top(code: str) -> str:
    """The folder in `CODE`; the project may be a subfolder of it."""
    return code.partition("/")[0]


def _lock(folder: Path) -> FileLock:
    return FileLock(folder.with_name(f".{folder.name}.lock"))


def _ready(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.ready")


def _remove(folder: Path) -> None:
    _ready(folder).unlink(missing_ok=True)
    if folder.exists():
        shutil.rmtree(folder)
    with suppress(GitError):
        git(ROOT, "worktree", "prune")
