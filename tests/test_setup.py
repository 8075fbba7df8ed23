"""`scripts/setup.sh` in a project without dependencies: what it installs belongs to its own folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from textwrap import dedent

import pytest
from conftest import ROOT, Lab, made_once

PROJECT = """
    [project]
    name = "toy"
    version = "0.1.0"
    requires-python = ">=3.11,<3.14"
    dependencies = []
    scripts = { where = "src.where:app" }

    [build-system]
    requires = ["poetry-core >=2.2"]
    build-backend = "poetry.core.masonry.api"

    [tool.poetry]
    packages = [{ include = "src" }]
"""
WHERE = """
    import sys

    def app():
        print(__file__, sys.prefix, sep="\\n")
"""


def make_project(root: Path) -> None:
    """The installed toy project; Poetry is the one that the tests were installed with."""
    (root / "src").mkdir(parents=True)
    (root / "scripts").mkdir()
    (root / "src/__init__.py").touch()
    (root / "src/where.py").write_text(dedent(WHERE))
    (root / "pyproject.toml").write_text(dedent(PROJECT))
    for script in ("setup.sh", "relocate.py"):
        shutil.copy(ROOT / "scripts" / script, root / "scripts")
    if (ROOT / ".poetry").exists():
        (root / ".poetry").symlink_to(ROOT / ".poetry")
    typed(root, *poetry(root), "lock")
    setup(root)


def poetry(root: Path) -> list[str]:
    own = root / ".poetry/bin/python"
    return [str(own), "-m", "poetry"] if own.exists() else ["poetry"]


def typed(root: Path, *command: str | Path, status: int = 0) -> str:
    """What a command prints in a project; it must end with this status."""
    dropped = ("VIRTUAL_ENV", "PYTHONPATH", "POETRY_ACTIVE")
    environment = {k: v for k, v in os.environ.items() if k not in dropped}
    environment |= {"POETRY_VIRTUALENVS_IN_PROJECT": "true"}
    done = subprocess.run(
        command, cwd=root, env=environment, text=True, capture_output=True, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def setup(root: Path) -> str:
    return typed(root, "bash", "scripts/setup.sh")


def belongs_here(root: Path) -> bool:
    """Programs and imports of .venv are those of this folder, wherever they are called from."""
    said = typed(Path("/"), root / ".venv/bin/where").splitlines()
    return said == [f"{root}/src/where.py", f"{root}/.venv"]


def files(root: Path) -> dict[str, bytes]:
    """The files of an installed project, less its log; a lost link would show in what it led to."""
    found = (p for p in root.rglob("*") if p.is_file() and p.suffix not in (".log", ".pyc"))
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


def copied(old: Path, new: Path) -> Path:
    subprocess.run(["cp", "-r", old, new], check=True)
    return new


@pytest.fixture(name="project")
def a_project(shared: Path) -> Path:
    """To be read only."""
    return made_once(shared / "toy-project", lambda lab: make_project(lab.root)).root


def test_copy_leaves_the_original_alone(project: Path, tmp_path: Path) -> None:
    """After cp -r, the setup of the copy makes it whole and touches nothing in the original."""
    original = copied(project, tmp_path / "original")
    typed(original, *poetry(original), "install", "--no-interaction")  # writes absolute paths
    (original / ".venv/bin/hello").write_text(f"#!{original}/.venv/bin/python\nprint('hello')\n")
    (original / ".venv/bin/hello").chmod(0o755)
    before = files(original)
    copy = copied(original, tmp_path / "a copy")
    assert "Ready" in setup(copy)
    assert files(original) == before
    assert belongs_here(copy)
    assert str(original) not in (copy / ".venv/bin/activate").read_text()
    assert str(original) not in (copy / ".venv/bin/hello").read_text()
    shutil.rmtree(original)
    assert typed(copy, ".venv/bin/hello") == "hello\n"
    assert belongs_here(copy)
    assert setup(copy) == ""


def test_copy_of_what_setup_made(project: Path, tmp_path: Path) -> None:
    """What the setup made works in a copy and after a move as it is, and by a link from elsewhere."""
    copy = copied(project, tmp_path / "copy")
    assert belongs_here(copy)
    moved = copy.rename(tmp_path / "moved")
    assert belongs_here(moved)
    (tmp_path / "where").symlink_to(moved / ".venv/bin/where")
    assert typed(Path("/"), tmp_path / "where").startswith(f"{moved}/src")


def test_ready_means_importable(project: Path, tmp_path: Path) -> None:
    """A .venv from which the project can't be imported is not ready, and is mended."""
    broken = copied(project, tmp_path / "broken")
    setup(broken)
    assert setup(broken) == ""
    next(broken.glob(".venv/lib/*/site-packages/toy.pth")).unlink()
    assert "Ready" in setup(broken)
    assert belongs_here(broken)


def test_renamed_copy(project: Path, tmp_path: Path) -> None:
    """A copy with a name of its own imports its own code, not the original's."""
    original = copied(project, tmp_path / "original")
    typed(original, *poetry(original), "install", "--no-interaction")
    copy = copied(original, tmp_path / "copy")
    settings = copy / "pyproject.toml"
    settings.write_text(settings.read_text().replace('"toy"', '"zoo"'))
    typed(copy, *poetry(copy), "lock")
    setup(copy)
    assert belongs_here(copy)
    assert belongs_here(original)


def test_shared_environment(project: Path, tmp_path: Path) -> None:
    """A .venv that is a link to another project's is not taken over from it."""
    original = copied(project, tmp_path / "original")
    setup(original)
    before = files(original)
    copy = tmp_path / "copy"
    shutil.copytree(original, copy, ignore=shutil.ignore_patterns(".venv"))
    (copy / ".venv").symlink_to(original / ".venv")
    said = typed(copy, "bash", "scripts/setup.sh", status=1)
    assert said.startswith(f"setup: .venv is a link to that of {original}: remove the link")
    assert files(original) == before


def git(root: Path, *arguments: str | Path) -> None:
    user = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
    typed(root, "git", *user, *arguments)


def test_linked_worktree(project: Path, tmp_path: Path) -> None:
    """In a linked git worktree the setup shares the packages of the main checkout, but not its code, and
    touches nothing there. Where they are gone, it makes an environment of its own."""
    main = copied(project, tmp_path / "main")
    (main / "src/utils").mkdir()
    for name in ("src/utils/paths.py", "src/utils/errors.py", "scripts/share.py"):
        shutil.copy(ROOT / name, main / name)
    (main / ".gitignore").write_text(".venv\n.poetry\nlogs\n__pycache__\n")
    git(main, "init", "--quiet")
    git(main, "add", ".")
    git(main, "commit", "--quiet", "--message=Start")
    idea = tmp_path / "an idea"
    git(main, "worktree", "add", "--quiet", "-b", "idea", idea)
    (next(main.glob(".venv/lib/*/site-packages")) / "of_main.py").touch()
    setup(main)
    before = files(main)
    assert f"Packages are those of {main}/.venv" in setup(idea)
    assert belongs_here(idea)
    assert belongs_here(main)
    typed(idea, ".venv/bin/python", "-c", "import of_main")
    assert setup(idea) == ""
    assert files(main) == before
    shutil.rmtree(main / ".venv")
    assert "The packages that .venv shares are gone" in setup(idea)
    assert belongs_here(idea)
    assert not (idea / ".venv/shared-from").exists()


def give_environment(project: Lab) -> Path:
    """A .venv of the project's own, as Poetry alone would leave it; the packages are the tests' own."""
    own = project.root / ".venv"
    own.unlink()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", own], check=True)
    packages = next(own.glob("lib/python*/site-packages"))
    (packages / "jikken.pth").write_text(f"{project.root}\n")
    (packages / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    script = f"#!{own}/bin/python\nfrom src.utils.lab.cli import app\napp()\n"
    (own / "bin/lab").write_text(script)
    (own / "bin/lab").chmod(0o755)
    return own


def test_doctor_sees_whose_code_runs(bare: Lab, tmp_path: Path) -> None:
    """`lab doctor` says when .venv belongs to another folder, also where `lab` itself can't start; other
    commands refuse to work on the original's runs."""
    give_environment(bare)
    copy = copied(bare.root, tmp_path / "copy")
    assert f"code      {bare.root}/src" in typed(bare.root, ".venv/bin/lab", "doctor")
    said = typed(copy, copy / ".venv/bin/lab", "doctor", status=1)
    assert f"{copy}/.venv runs the code of {bare.root}" in said
    assert f"cd {copy} && " in said
    said = typed(copy, copy / ".venv/bin/lab", "gc", "--yes", status=2)
    assert said.startswith(
        f"error: {copy}/.venv runs the code of {bare.root}, with its runs: bash "
    )
    bare.root.rename(tmp_path / "moved")
    doctor = ("-m", "src.utils.lab.cli", "doctor")
    said = typed(copy, ".venv/bin/python", *doctor, status=1)
    assert f"{copy}/.venv imports no src, not {copy}/src" in said
