"""The code of runs is kept once for each commit: they rerun where the commit is gone, or never was."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from src.utils.runs import kept_code
from src.utils.runs.git import GitError, git
from src.utils.runs.kept_code import add_commits, is_kept, keep_code

import pytest
from conftest import MODEL, QUICK, Lab, commit
from laboratory import refused, typed
from mlflow.tracking import MlflowClient
from test_rerun import IDENTICAL, rerun
from test_tracking import server  # noqa: F401  a fixture


def test_a_commit_that_is_gone(fresh: Lab) -> None:
    """A run whose commit was rebased away and pruned reruns identically, from logs/code.git."""
    old = fresh.newest()
    gone = fresh.git("rev-parse", "HEAD").strip()
    _lose_history(fresh)
    with pytest.raises(subprocess.CalledProcessError):
        fresh.git("cat-file", "-e", gone)
    assert all(line in rerun(fresh, old.info.run_id) for line in IDENTICAL)
    assert fresh.newest().data.tags["mlflow.source.git.commit"] == gone
    assert len(fresh.git("worktree", "list").splitlines()) == 1
    shutil.rmtree(fresh.root / "logs" / "code.git")
    line = refused(fresh, "rerun", old.info.run_id)
    assert f"commit {gone[:12]} is not in this repository, nor in logs/code.git" in line


def _lose_history(lab: Lab) -> None:
    """Make the repository one that has never seen its commits."""
    shutil.rmtree(lab.root / ".git")
    (lab.root / ".venv").unlink()
    (lab.root / "another.txt").touch()
    commit(lab)


def test_a_server(fresh: Lab, server: str, tmp_path: Path) -> None:  # noqa: F811
    """With a server the first run of a commit has its code; a clone that never saw it reruns identically."""
    remote = {"MLFLOW_TRACKING_URI": server}
    elsewhere = fresh.copied(tmp_path / "elsewhere")
    shutil.rmtree(elsewhere.root / "logs")
    _lose_history(elsewhere)
    fresh.done(MODEL, *QUICK, **remote)
    done = typed(elsewhere, "rerun", "latest", **remote)
    assert all(line in done.stdout for line in IDENTICAL), done.stdout + done.stderr
    client = MlflowClient(server)
    found = client.search_runs([one.experiment_id for one in client.search_experiments()])
    assert [kept_code.PACK in run.data.tags for run in found] == [False, True]
    sizes = [_size_of_pack(client, run.info.run_id) for run in found]
    assert sizes[0] is None
    assert 0 < (sizes[1] or 0) < 2**20


def _size_of_pack(client: MlflowClient, run_id: str) -> int | None:
    files = client.list_artifacts(run_id, "provenance")
    return next((file.file_size for file in files if file.path.endswith(kept_code.PACK)), None)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small repository with three commits."""
    git(tmp_path, "init", "--quiet", "project")
    for text in ("1", "2", "3"):
        change(tmp_path / "project", text)
    return tmp_path / "project"


def change(folder: Path, text: str) -> str:
    """Commit a file; returns the commit."""
    (folder / "file").write_text(text)
    git(folder, "add", ".")
    who = {
        f"GIT_{role}_{what}": "x" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    git(folder, "commit", "--quiet", "--message=x", environment=who)
    return head(folder)


def head(folder: Path) -> str:
    return git(folder, "rev-parse", "HEAD").decode().strip()


def clones(project: Path) -> dict[str, Callable[[], Path]]:
    """Ways to have the repository."""
    shallow, linked = project.parent / "shallow", project.parent / "linked"
    return {
        "plain": lambda: project,
        "shallow": lambda: _made(shallow, "clone", "--depth=1", project.as_uri(), str(shallow)),
        "linked": lambda: _made(linked, "-C", str(project), "worktree", "add", str(linked)),
    }


def _made(folder: Path, *arguments: str) -> Path:
    subprocess.run(["git", *arguments], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("kind", ["plain", "shallow", "linked"])
def test_any_clone(project: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each commit is kept whole and without history, from a shallow clone and a linked worktree, too, and
    whatever repository a hook names; when references are packed, they are found."""
    kept, source = project.parent / "logs" / "code.git", clones(project)[kind]()
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    first, second = head(source), change(source, "4")
    for one in (first, second):
        add_commits(kept, source, [one])
    assert is_kept(first, kept)
    git(kept, "pack-refs", "--all")
    git(kept, "gc", "--quiet", "--prune=now")
    assert is_kept(first, kept)
    assert is_kept(second, kept)
    assert not is_kept("1" * 40, kept)
    assert git(kept, "fsck", "--connectivity-only") == b""
    assert git(kept, "rev-list", "--count", second).strip() == b"1"


def test_a_kept_commit_costs_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A run whose commit is there starts no git process."""
    monkeypatch.setattr(kept_code, "KEPT", project.parent / "code.git")
    newest = head(project)
    keep_code(newest, project)
    assert is_kept(newest, kept_code.KEPT)
    monkeypatch.setenv("PATH", "/nowhere")
    keep_code(newest, project)
    assert caplog.messages == []


def test_a_failure_is_a_warning(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What can't be kept is a warning of one line, and the run goes on; the repository stays usable."""
    monkeypatch.setattr(kept_code, "KEPT", project.parent / "code.git")
    keep_code("1" * 40, project)
    assert caplog.messages == [
        f"commit 11111111 is not kept for reruns: git rev-list: fatal: bad object {'1' * 40}"
    ]
    keep_code(head(project), project)
    assert is_kept(head(project), kept_code.KEPT)


ADD = """
import sys
from pathlib import Path
from src.utils.runs.kept_code import add_commits
print("begins", flush=True)
add_commits(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
"""


def test_killed_and_at_once(project: Path, clone: Lab) -> None:
    """A process that is killed leaves nothing that stops the next ones, of which several add at once."""
    kept = project.parent / "code.git"
    commits = git(project, "rev-list", "HEAD").decode().split()
    killed = clone.start(sys.executable, "-c", ADD, kept, project, *commits)
    assert killed.stdout and killed.stdout.readline()
    time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    git(kept.parent, "init", "--quiet", "--bare", kept.name)
    for name in ("shallow.lock", "packed-refs.lock", "objects/pack/tmp_pack_1"):
        (kept / name).touch()
    both = [clone.start(sys.executable, "-c", ADD, kept, project, *commits) for _ in range(2)]
    assert [process.communicate()[1] for process in both] == ["", ""]
    assert all(is_kept(one, kept) for one in commits)
    assert git(kept, "fsck", "--connectivity-only") == b""


def test_git_says_why(tmp_path: Path) -> None:
    """An error of git is its one line that says why."""
    with pytest.raises(GitError, match="git rev-parse: fatal: not a git repository"):
        git(tmp_path, "rev-parse", "HEAD")
