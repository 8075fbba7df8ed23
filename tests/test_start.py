"""A project of one's own: `copier copy`, `lab init`, `lab upgrade`, and what is whose."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, Lab, made_once
from laboratory import refused, said, typed

TEMPLATE = ROOT / "copier.yml"
pytestmark = pytest.mark.skipif(not TEMPLATE.exists(), reason="a project is no template")

ANSWERS = {"name": "rented-bikes", "description": 'Bikes, "rented" 自転車', "author": "山田 花子"}
# What no project gets; a file in none of the three kinds is refused, so a new one has to be thought about.
JIKKENS_OWN = (
    ".ci/",
    "benchmarks/",
    "CHANGELOG.md",
    "README.ja.md",
    "copier.yml",
    "docs/decisions.md",
    "docs/mlflow_run.png",
    "docs/theme/",
    "mkdocs.yml",
    "scripts/make_reference.py",
    "template/",
    "tests/",
)
PROGRAM = "src/model/model01/classifier.py"


def copied(upstream: Lab, to: Path, *data: str) -> Lab:
    """`copier copy --trust`, as it is typed."""
    given = [f"--data={name}={answer}" for name, answer in ANSWERS.items()]
    given += [f"--data={one}" for one in data]
    command = (sys.executable, "-m", "copier", "copy", "--trust", "--defaults", *given)
    process = upstream.start(*command, upstream.root, to, **identity(to.parent))
    _, text = process.communicate(timeout=240)
    assert process.returncode == 0, text
    assert "rented-bikes is yours. Next:" in text
    return with_environment(Lab(to))


def identity(folder: Path, name: str = "Hanako") -> dict[str, str]:
    """A git configuration of the user's own."""
    file = folder / f"git-of-{name or 'nobody'}"
    user = f"[user]\nname = {name}\nemail = hanako@example.org\n" if name else ""
    file.write_text(f"{user}[advice]\ndetachedHead = false\n")
    return {"GIT_CONFIG_GLOBAL": str(file), "GIT_CONFIG_NOSYSTEM": "1"}


def with_environment(project: Lab) -> Lab:
    """Give a project the environment of the tests."""
    (project.root / ".venv").symlink_to(sys.prefix)
    return project


def cloned(upstream: Lab, to: Path) -> Lab:
    """`git clone`."""
    upstream.git("clone", "--quiet", upstream.root, to)
    return with_environment(Lab(to))


def options(*more: str) -> list[str]:
    """The answers as options of lab init."""
    return [*(f"--{name}={answer}" for name, answer in ANSWERS.items()), *more]


def tree(project: Lab, revision: str = "HEAD") -> str:
    return project.git("rev-parse", f"{revision}^{{tree}}")


def tracked(project: Lab) -> set[str]:
    return {*project.git("ls-files", "-z").split("\0")} - {""}


def edit(project: Lab, file: str, old: str, new: str) -> None:
    """Put one text in the place of another, which has to be there."""
    path = project.root / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def commit_all(project: Lab, message: str = "Work") -> None:
    project.git("add", "--all")
    project.git("commit", "--quiet", f"--message={message}")


@pytest.fixture(scope="session", name="upstream")
def jikken(shared: Path) -> Lab:
    """This repository as it is on disk, with two commits: what is still to be committed, too."""

    def make(lab: Lab) -> None:
        listed = ("ls-files", "--cached", "--others", "--exclude-standard", "-z")
        for name in filter(None, Lab(ROOT).git(*listed).split("\0")):
            if (ROOT / name).is_file() and name != ".venv":
                (lab.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, lab.root / name)
        lab.git("init", "--quiet", "--initial-branch=main")
        lab.git("commit", "--quiet", "--allow-empty", "--message=Long ago")
        commit_all(lab, "Before")
        lab.git("repack", "-adq")

    return made_once(shared / "jikken", make)


@pytest.fixture(scope="session", name="project")
def a_project(shared: Path, upstream: Lab) -> Lab:
    """A project without the examples, made by copier. To be read only."""

    def make(lab: Lab) -> None:
        copied(upstream, lab.root, "examples=false", "license=Apache-2.0")

    return made_once(shared / "project", make)


@pytest.fixture(scope="session", name="later")
def a_later_version(shared: Path, upstream: Lab) -> Lab:
    """jikken with one more commit: the engine, the examples, a dependency and the changelog have changed."""

    def make(lab: Lab) -> None:
        upstream.copied(lab.root)
        edit(lab, "src/utils/metrics.py", '"""Loss and', '"""The loss and')
        edit(lab, "src/model/model01/image_classifier_models.py", '"""', '"""Later: ')
        edit(lab, "pyproject.toml", '"safetensors >=0.6,<1"', '"safetensors >=0.7,<1"')
        edit(lab, "CHANGELOG.md", "### Added\n", "### Added\n\n- Something new.\n")
        edit(lab, "README.md", "# ", "# The new ")
        (lab.root / "src/utils/idx.py").unlink()
        (lab.root / "src/utils/added.py").write_text('"""New."""\n')
        commit_all(lab, "After")

    return made_once(shared / "later-jikken", make)


def rendered(upstream: Lab, to: Path, **answers: Any) -> set[str]:
    """The files that copier writes."""
    import copier

    known = {"name": "x", "author": "y", **answers}
    options: dict[str, Any] = {"skip_tasks": True, "defaults": True, "quiet": True}
    copier.run_copy(str(upstream.root), to, known, vcs_ref="HEAD", **options)
    return {str(path.relative_to(to)) for path in to.rglob("*") if path.is_file()}


def test_whose_is_what(upstream: Lab, tmp_path: Path) -> None:
    """Each file of the repository is one of three: the engine, the project's own, or jikken's own."""
    all_of_it = rendered(upstream, tmp_path / "all")
    engine = rendered(upstream, tmp_path / "engine", update=True)
    assert engine < all_of_it
    sources = {name.removesuffix(".jinja") for name in tracked(upstream)}
    own = {name for name in sources if name.startswith(JIKKENS_OWN)} - engine
    assert sources - own == all_of_it
    assert {f for f in engine if f.startswith(("src/", "tests/"))} == {
        *(f for f in sources if f.startswith("src/utils/")),
        *("src/README.md", "src/__init__.py", "tests/test_experiments.py"),
    }
    yours = all_of_it - engine
    assert {"README.md", "LICENSE", "scripts/run.sh", "config/model/model01/config.yaml"} < yours
    without = rendered(upstream, tmp_path / "without", examples=False)
    assert without - engine == {
        name for name in yours if name.endswith("README.md") and "sample" not in name
    } | {"LICENSE", "MLproject", "scripts/run.sh"}


@pytest.mark.parametrize("examples", [True, False], ids=["examples", "minimal"])
def test_two_ways(upstream: Lab, project: Lab, tmp_path: Path, examples: bool) -> None:
    """A project made by `copier copy` and one made by `lab init` in a clone have the same files, to a byte;
    the clone keeps its history, and what git does not know."""
    one = copied(upstream, tmp_path / "one", "license=Apache-2.0") if examples else project
    two = cloned(upstream, tmp_path / "two")
    (two.root / "logs/mlruns/model/model01").mkdir(parents=True)
    (two.root / "_data/data/dataset09").mkdir()
    (two.root / "_data/data/dataset09/kept.csv").touch()
    way = "--examples" if examples else "--no-examples"
    text = said(two, "init", *options(way, "--license=Apache-2.0"), **identity(tmp_path))
    assert tree(one) == tree(two)
    assert two.git("log", "--format=%s %an").splitlines() == [
        "Start Hanako",
        "Before Test",
        "Long ago Test",
    ]
    assert two.git("status", "--porcelain") == ""
    assert (two.root / "_data/data/dataset09/kept.csv").exists()
    lines = text.splitlines()
    assert [line.startswith("    ") for line in lines[-3:]] == [True] * 3
    assert lines[-1].endswith("model04 --minimal" if examples else "model02 --minimal")
    assert ("the runs of model/model01 stay, with their source" in text) is not examples


def test_what_is_written(project: Lab) -> None:
    """Name, description, author and licence are in the project's files, and Poetry's lock file still fits."""
    text = (project.root / "pyproject.toml").read_text()
    assert 'name = "rented-bikes"' in text
    assert '"Bikes, \\"rented\\" 自転車"' in text
    assert '{ name = "山田 花子" }' in text
    assert 'license = "Apache-2.0"' in text
    assert "Apache License" in (project.root / "LICENSE").read_text()
    assert "rented-bikes" in (project.root / "README.md").read_text().splitlines()[0]
    assert "jikken contributors" in (project.root / "src/utils/LICENSE").read_text()
    assert project.git("log", "--format=%s by %an") == "Start by Hanako\n"
    poetry = ROOT / ".poetry/bin/python"
    if poetry.exists():
        check = [poetry, "-m", "poetry", "check", "--lock"]
        done = subprocess.run(check, cwd=project.root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_notices_are_the_same() -> None:
    """The engine's licence goes with it, whatever licence the project has."""
    assert (ROOT / "LICENSE").read_text() == (ROOT / "src/utils/LICENSE").read_text()


def test_the_first_model(project: Lab, tmp_path: Path) -> None:
    """A project without the examples trains with one command, and its tests, lint and format pass."""
    begun = project.copied(tmp_path / "begun")
    assert "val_acc" in begun.done(PROGRAM, "max_epochs=1")
    for command in (["-m", "ruff", "check"], ["-m", "ruff", "format", "--check"]):
        process = begun.start(sys.executable, *command)
        assert process.communicate(timeout=60) and process.returncode == 0
    process = begun.start(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, out + err
    assert begun.git("status", "--porcelain") == ""


@pytest.mark.parametrize(
    ("arguments", "parts"),
    {
        ("--name=../x",): ["--name", "letters"],
        ("--name=PyYAML",): ["--name", "a package that the project uses"],
        ("--license=WTFPL",): ["--license", "WTFPL"],
        ("--author=Hanako <h@example.org>",): ["--author", "without an address"],
        ("--description= ",): ["--description", "one line"],
    }.items(),
)
def test_refused_answers(
    upstream: Lab, tmp_path: Path, arguments: tuple[str], parts: list[str]
) -> None:
    """A wrong answer is refused in one line, and nothing is changed."""
    clone = cloned(upstream, tmp_path / "clone")
    line = refused(clone, "init", *options("--examples", "--license=MIT", *arguments))
    assert [part for part in parts if part not in line] == []
    assert (clone.git("status", "--porcelain"), tree(clone)) == ("", tree(upstream))


def test_refused_places(upstream: Lab, project: Lab, tmp_path: Path) -> None:
    """lab init works once, on what is committed, and asks only where there is a terminal."""
    assert "already" in refused(project, "init", "--yes")
    clone = cloned(upstream, tmp_path / "clone")
    assert "give --name, --description" in refused(clone, "init", "--no-examples")
    (clone.root / "LICENSE").write_text("mine")
    assert "LICENSE has changes" in refused(clone, "init", "--yes")


def test_nobody(upstream: Lab, tmp_path: Path) -> None:
    """Where git doesn't know the user, nothing is lost: the files are there to be committed, and a line says
    how."""
    clone = cloned(upstream, tmp_path / "clone")
    text = said(clone, "init", *options("--no-examples", "--yes"), **identity(tmp_path, ""))
    assert "git config --global user.name NAME" in text
    commit_all(clone)
    assert clone.git("log", "--format=%s").splitlines() == ["Work", "Before", "Long ago"]


def mine(project: Lab, to: Path) -> Lab:
    """A project with work of its own: code, settings, a dependency, a script, an experiment."""
    own = project.copied(to)
    edit(own, PROGRAM, "nn.ReLU()", "nn.GELU()")
    edit(own, "config/model/model01/config.yaml", "hidden: 32", "hidden: 48")
    edit(own, "pyproject.toml", '"typer >=0.20,<1",', '"typer >=0.20,<1",\n    "polars >=1",')
    edit(own, "scripts/run.sh", "model01", "model02")
    edit(own, "README.md", "# ", "# My ")
    said(own, "new", "model02", "--minimal")
    commit_all(own)
    return own


def upgraded(project: Lab, later: Lab, *more: str, status: int = 0) -> str:
    """`lab upgrade` to a later version."""
    done = typed(project, "upgrade", "--from", later.root, *more)
    assert (done.returncode, done.stderr) == (status, ""), done.stdout + done.stderr
    return done.stdout


def test_upgrade(project: Lab, later: Lab, tmp_path: Path) -> None:
    """An upgrade brings the engine's changes and nothing else: what the project has made stays byte for byte,
    dependencies of both are in pyproject.toml, and the changelog says what is new."""
    own = mine(project, tmp_path / "mine")
    assert "Something new." in upgraded(own, later, "--check")
    assert own.git("status", "--porcelain") == ""
    text = upgraded(own, later)
    assert "- Something new." in text
    changed = own.git("diff", "--name-only", "HEAD").split()
    files = ("pyproject.toml", "src/utils/added.py", "src/utils/idx.py", "src/utils/metrics.py")
    assert changed == [".copier-answers.yml", *files]
    assert [f for f in files if f not in text] == []
    packages = (own.root / "pyproject.toml").read_text()
    assert '"polars >=1",' in packages
    assert '"safetensors >=0.7,<1"' in packages
    commit_all(own)
    assert upgraded(own, later).startswith("up to date")
    answers = yaml.safe_load((own.root / ".copier-answers.yml").read_text())
    assert answers["_src_path"] == str(later.root)
    assert own.root.joinpath(PROGRAM).read_text().count("GELU") == 1


def test_copier_update(project: Lab, later: Lab, tmp_path: Path) -> None:
    """`copier update` by itself does the same, for those who know it."""
    one, two = (mine(project, tmp_path / name) for name in ("one", "two"))
    for own in (one, two):
        edit(own, ".copier-answers.yml", str(project.root.parent / "jikken"), str(later.root))
        commit_all(own, "Address")
    upgraded(one, later)
    command = (sys.executable, "-m", "copier", "update", "--trust", "--defaults", "--quiet")
    process = two.start(*command, **identity(tmp_path))
    assert process.communicate(timeout=240) and process.returncode == 0
    for own in (one, two):
        commit_all(own)
    assert tree(one) == tree(two)


def test_conflict(project: Lab, later: Lab, tmp_path: Path) -> None:
    """A file of the engine that both have changed ends with both versions in it and markers; one that jikken
    has removed stays where it was changed. Each has a line, and the status is 1."""
    own = mine(project, tmp_path / "mine")
    edit(own, "src/utils/metrics.py", '"""Loss and', '"""My loss and')
    edit(own, "src/utils/idx.py", '"""', '"""Mine: ')
    commit_all(own)
    text = upgraded(own, later, status=1)
    assert "src/utils/metrics.py: conflict: both changed it, see its markers" in text
    assert "src/utils/idx.py: conflict: you changed it, jikken removed it" in text
    both = (own.root / "src/utils/metrics.py").read_text()
    assert both.startswith('<<<<<<< HEAD\n"""My loss and')
    assert '"""The loss and' in both
    assert "Mine: " in (own.root / "src/utils/idx.py").read_text()
    own.git("reset", "--quiet", "--hard")
    assert own.git("status", "--porcelain") == ""


def test_lock_file(project: Lab, later: Lab, tmp_path: Path) -> None:
    """Where both have changed poetry.lock, the project's stays, and is locked again; where that can't be, a
    line says what to type."""
    own, newer = mine(project, tmp_path / "mine"), later.copied(tmp_path / "newer")
    for place, package in ((own, "polars"), (newer, "torch")):
        edit(place, "poetry.lock", "\n", f"\n# with {package}\n")
        commit_all(place)
    programs = tmp_path / "bin"
    programs.mkdir()
    poetry = programs / "poetry"
    path = f"{programs}:/usr/bin:/bin"
    for status, expected in ((1, "type poetry lock"), (0, "poetry.lock is made anew")):
        poetry.write_text(
            f"#!/bin/sh\n[ $1 = lock ] && echo '# again' >> poetry.lock\nexit {status}\n"
        )
        poetry.chmod(0o755)
        done = typed(own, "upgrade", "--from", newer.root, PATH=path)
        assert (done.returncode, expected in done.stdout) == (0, True), done.stdout + done.stderr
        lock = (own.root / "poetry.lock").read_text()
        assert "# with polars" in lock
        assert "# with torch" not in lock
        own.git("reset", "--quiet", "--hard")


def test_use_this_template(upstream: Lab, later: Lab, tmp_path: Path) -> None:
    """A repository that GitHub has made of one commit knows no commit of jikken's: the version is found by
    its files. Where jikken is has to be said once."""
    github = tmp_path / "github"
    shutil.copytree(upstream.root, github, ignore=shutil.ignore_patterns(".git"))
    used = Lab(github)
    used.git("init", "--quiet", "--initial-branch=main")
    used.git("remote", "add", "origin", github)
    commit_all(used, "Initial commit")
    with_environment(used)
    (github / ".git/info/exclude").write_text(".venv\n")
    text = said(used, "init", *options("--no-examples", "--yes"), **identity(tmp_path))
    assert "origin is still" not in text
    assert "where is jikken? lab upgrade --from ADDRESS" in refused(used, "upgrade")
    assert "is a project, not jikken" in refused(used, "upgrade", "--from", github)
    assert "Something new." in upgraded(used, later)
    assert "src/utils/added.py" in used.git("diff", "--name-only", "HEAD")


def test_refused_upgrades(bare: Lab, project: Lab, later: Lab, tmp_path: Path) -> None:
    """What stands in the way of an upgrade is said in one line, and nothing is changed."""
    assert "lab init" in refused(bare, "upgrade")
    own = project.copied(tmp_path / "own")
    assert "no repository answers at" in refused(own, "upgrade", "--from", tmp_path / "nowhere")
    assert "no version v9" in refused(own, "upgrade", "--from", later.root, "--to", "v9")
    (own.root / "src/utils/added.py").write_text("mine\n")
    assert "src/utils/added.py" in refused(own, "upgrade", "--from", later.root)
    assert (own.root / "src/utils/added.py").read_text() == "mine\n"
    edit(own, "src/utils/metrics.py", '"""', '"""Mine: ')
    assert "src/utils/metrics.py has changes" in refused(own, "upgrade", "--from", later.root)
