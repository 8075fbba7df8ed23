"""`lab upgrade`: the engine of a project becomes that of a later version of jikken.

copier renders the files of the engine twice, as they were in the version that the project has and as they
are in the new one. git merges what is between the two with what the project has made of them: a
three-way merge, as of a branch. Where both changed the same lines, the file has both, with markers. What is
no part of the engine, as copier.yml draws it, is in neither of the two, and no change can reach it.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.utils.errors import UserError
from src.utils.lab.packages import lock_packages
from src.utils.lab.template import (
    ANSWERS,
    NOBODY,
    check_clean,
    cloned,
    git,
    read_answers,
    render,
    write_address,
    write_tree,
)
from src.utils.paths import ROOT

# Of the engine, and not rendered: in the commit that a project was made of they are the same.
ENGINE = "src/utils"
AS_THEY_ARE = (
    ENGINE,
    "config/utils",
    "template/minimal",
    "poetry.lock",
    "poetry.toml",
    "scripts/setup.sh",
)
STATES = {
    "A": "new",
    "D": "removed",
    "R": "renamed",
}  # of git diff --name-status; others are changed
CONFLICTS = {  # of git status --porcelain
    "UU": "conflict: both changed it, see its markers",
    "AA": "conflict: both added it, see its markers",
    "UD": "conflict: you changed it, jikken removed it",
    "DU": "conflict: you removed it, jikken changed it",
}


@dataclass(frozen=True)
class Upgrade:
    """What is between two versions, and what became of it."""

    old: str  # as copier names versions: 13147f9, v1.2.0, v1.2.0-3-g13147f9
    new: str
    commits: int
    changelog: list[str]  # the new lines
    files: dict[str, str] = field(
        default_factory=dict
    )  # file -> new, changed, removed, renamed, conflict
    packages: str = ""  # what is to be done about poetry.lock

    @property
    def conflicts(self) -> list[str]:
        """The files that are to be decided on, most of them with markers in them."""
        return [file for file, state in self.files.items() if state in CONFLICTS.values()]


def upgrade_project(address: str | None, to: str | None, base: str | None, apply: bool) -> Upgrade:
    """Bring the engine up to date, without a commit.

    Args:
        address: of jikken; None means the one in .copier-answers.yml
        to: the version; None means the last release, or where there is none since, the last commit
        base: the version that the project has, where neither .copier-answers.yml nor its files tell
        apply: else only say what there is

    Raises:
        UserError: this is no project, or has changes that are not committed; nothing answers at the address;
            a version is not known there.
    """
    answers = read_answers()
    address = address or str(answers.get("_src_path") or "")
    if not address:
        raise UserError("where is jikken? lab upgrade --from ADDRESS")
    if apply:
        check_clean()
    with cloned(address) as template:
        old = _find_base(template, base or str(answers.get("_commit")), given=base is not None)
        new = _commit_of(template, to) if to else _newest(template, old)
        found = Upgrade(*_compare(template, old, new))
        if apply and found.commits:
            return _merge(template, found, answers, address)
    if apply and address != answers.get("_src_path"):
        write_address(ROOT / ANSWERS, address)
    return found


def _commit_of(template: Path, version: str) -> str:
    try:
        return git("rev-parse", "--verify", "--quiet", f"{version}^{{commit}}", folder=template)
    except UserError:
        raise UserError(
            f"there is no version {version}: give a tag or a commit of jikken"
        ) from None


def _newest(template: Path, old: str) -> str:
    """The last release, if it is not in the version `old`; else the last commit, if `old` is no release."""
    releases = git("tag", "--list", "v*", "--sort=-version:refname", folder=template).split()
    if releases and not _is_in(template, releases[0], old):
        return _commit_of(template, releases[0])
    if releases and _commit_of(template, releases[0]) == old:
        return old
    return _commit_of(template, "HEAD")


def _is_in(template: Path, older: str, newer: str) -> bool:
    count = git("rev-list", "--count", "--max-count=1", f"{newer}..{older}", folder=template)
    return count == "0"


def _compare(template: Path, old: str, new: str) -> tuple[str, str, int, list[str]]:
    """Both names, the number of commits between, and the new lines of the changelog."""
    names = [git("describe", "--tags", "--always", one, folder=template) for one in (old, new)]
    commits = int(git("rev-list", "--count", f"{old}..{new}", folder=template))
    before, after = (_changelog(template, one) for one in (old, new))
    known = {*before}
    lines = [line for line in after if line.startswith(("- ", "  - ")) and line not in known]
    return names[0], names[1], commits, lines


def _changelog(template: Path, commit: str) -> list[str]:
    try:
        return git("show", f"{commit}:CHANGELOG.md", folder=template).splitlines()
    except UserError:
        return []


def _find_base(template: Path, version: str, given: bool) -> str:
    """The commit of jikken that the project has: by its name, or else by the engine's files."""
    try:
        return _commit_of(template, version)
    except UserError:
        if given:
            raise
    own = _objects(ROOT, git("log", "-1", "--format=%H", "--", ANSWERS))
    commits = git("rev-list", "HEAD", folder=template).split()
    there = {commit: _objects(template, commit) for commit in commits}
    same = [one for one in commits if there[one].get(ENGINE) == own.get(ENGINE)]
    if not same:
        raise UserError(
            f"none of jikken's versions has the engine of this project, and {version} is not one: "
            "lab upgrade --base VERSION"
        )
    return max(same, key=lambda one: len(there[one].items() & own.items()))


def _objects(repository: Path, commit: str) -> dict[str, str]:
    """The ids of the parts of the engine that are not rendered, by their names."""
    lines = git("ls-tree", commit, *AS_THEY_ARE, folder=repository).splitlines()
    return {name: entry.split()[2] for entry, name in (line.split("\t") for line in lines)}


def _merge(template: Path, found: Upgrade, answers: Mapping[str, Any], address: str) -> Upgrade:
    """Merge what is between two versions into the working tree and the index."""
    with tempfile.TemporaryDirectory(prefix="jikken-") as folder:
        trees = [
            _engine(template, one, Path(folder, one), answers) for one in (found.old, found.new)
        ]
        note = (Path(folder) / ANSWERS).read_text()
    base = git("commit-tree", trees[0], "-m", f"jikken {found.old}", environment=NOBODY)
    change = git(
        "commit-tree", trees[1], "-p", base, "-m", f"jikken {found.new}", environment=NOBODY
    )
    _pick(change)
    (ROOT / ANSWERS).write_text(note)
    write_address(ROOT / ANSWERS, address)
    git("add", ANSWERS)
    packages = lock_packages(trees)
    files = _changed_files()
    return Upgrade(found.old, found.new, found.commits, found.changelog, files, packages)


def _engine(template: Path, version: str, folder: Path, answers: Mapping[str, Any]) -> str:
    """The files of the engine in a version, as a tree of git; .copier-answers.yml goes beside the folder."""
    known = {name: value for name, value in answers.items() if name[:1] != "_"} | {"update": True}
    render(template, version, folder, known, defaults=True, skip_tasks=True)
    (folder / ANSWERS).rename(folder.parent / ANSWERS)
    return write_tree(folder)


def _pick(change: str) -> None:
    """Merge the change that a commit makes, by git, into the index and the working tree."""
    try:
        git(
            "-c",
            "core.hooksPath=/dev/null",
            "cherry-pick",
            "--no-commit",
            change,
            environment=NOBODY,
        )
    except UserError:
        if not git("ls-files", "--unmerged"):  # it didn't begin: a file of the user's is in the way
            raise


def _changed_files() -> dict[str, str]:
    """What the upgrade has done to the files; a conflict comes last."""
    lines = [line.split("\t") for line in git("diff", "--name-status", "HEAD").splitlines()]
    files = {parts[-1]: STATES.get(parts[0][0], "changed") for parts in lines}
    status = [line.split(maxsplit=1) for line in git("status", "--porcelain").splitlines()]
    unmerged = {file: CONFLICTS[state] for state, file in status if state in CONFLICTS}
    clean = {file: state for file, state in files.items() if file not in {*unmerged, ANSWERS}}
    return clean | unmerged


def as_dict(done: Upgrade) -> dict[str, object]:
    """For `--json`."""
    return {
        "from": done.old,
        "to": done.new,
        "commits": done.commits,
        "changelog": done.changelog,
        "files": done.files,
        "packages": done.packages,
    }


def print_upgrade(done: Upgrade, applied: bool) -> None:
    """Print what is new, what became of the files, and what to do next."""
    if not done.commits:
        print(f"up to date: jikken {done.old}")
        return
    count = f"{done.commits} commit{'s' if done.commits > 1 else ''}"
    print(f"jikken {done.old} → {done.new}: {count}")
    print("".join(f"\n{line}" for line in done.changelog), end="\n\n" if done.changelog else "")
    if not applied:
        print("lab upgrade brings it")
        return
    for file, state in done.files.items():
        print(f"{file}: {state}" if state in CONFLICTS.values() else f"{state:<8} {file}")
    print("\n".join(filter(None, [done.packages, *_next_steps(done)])))


def _next_steps(done: Upgrade) -> list[str]:
    """What to type next."""
    decide = "decide on each conflict: edit the file, then git add FILE (or git rm FILE)"
    return [
        *([decide] if done.conflicts else []),
        "nothing is committed yet: git diff HEAD shows it",
        f"keep it: bash scripts/test.sh && git commit -am 'jikken {done.new}'",
        "undo it: git reset --hard",
    ]
