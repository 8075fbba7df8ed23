"""Dockerfile and devcontainer.json: built where Docker is to be had; else what can be checked without it."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, Lab
from test_setup import a_project as project  # noqa: F401  a fixture
from test_setup import belongs_here, files, typed

DOCKERFILE = ROOT / "Dockerfile"
pytestmark = pytest.mark.skipif(not DOCKERFILE.exists(), reason="this project has no Dockerfile")


def steps(kind: str) -> list[str]:
    """The instructions of one kind, each on one line."""
    text = re.sub(r"\\\n\s*", "", DOCKERFILE.read_text())
    return re.findall(rf"^{kind} (.*)$", text, re.MULTILINE)


def has_docker() -> bool:
    found = shutil.which("docker")
    if found is None:
        return False
    return subprocess.run([found, "info"], check=False, capture_output=True).returncode == 0


@pytest.mark.timeout(3600)
@pytest.mark.skipif(not has_docker(), reason="needs a Docker daemon")
@pytest.mark.skipif("JIKKEN_DOCKER" not in os.environ, reason="takes half an hour: JIKKEN_DOCKER=1")
def test_image(lab: Lab, tmp_path: Path) -> None:
    """The image builds; a run in it is recorded in the mounted folder, and its files are the user's."""
    subprocess.run(["docker", "build", "--tag", "jikken-test", ROOT], check=True)
    place = lab.copied(tmp_path / "place")
    (place.root / ".venv").unlink()
    user = f"{os.getuid()}:{os.getgid()}"
    command = ("docker", "run", "--rm", "--init", "--user", user, "--volume", f"{place.root}:/work")
    typed(place.root, *command, "jikken-test", "python", "src/model/model01/digit_classifier.py")
    assert "finished" in typed(place.root, *command, "jikken-test", "lab", "runs", "--limit=1")
    assert {file.stat().st_uid for file in place.root.rglob("logs/**/*")} == {os.getuid()}


def test_packages_come_before_the_code() -> None:
    """What is copied exists; the code is copied last, so that an edit makes no other layer again."""
    copies = [step.split() for step in steps("COPY")]
    sources = [name for step in copies for name in step[:-1] if not name.startswith("--")]
    assert all((ROOT / name).exists() for name in sources)
    assert sources.index(".") == len(sources) - 1
    assert "/work" in steps("WORKDIR")
    assert steps("USER") == ["me"]


def test_step_of_the_packages(project: Path, tmp_path: Path) -> None:  # noqa: F811
    """The step that installs the packages works with the files that are copied before it, and leaves none of
    its tools in the image."""
    (step,) = [step for step in steps("RUN") if "setup.sh" in step]
    image = tmp_path / "image"
    (image / "scripts").mkdir(parents=True)
    for name in ("pyproject.toml", "poetry.lock", "scripts/setup.sh", "scripts/relocate.py"):
        shutil.copy(project / name, image / name)
    if (project / ".poetry").exists():
        (image / ".poetry").symlink_to(ROOT / ".poetry")
    said = typed(image, "bash", "-ec", step.replace("/root/.cache", "cache"))
    assert "Ready" in said
    assert not (image / ".poetry").exists()
    shutil.copy(project / "src/where.py", image / "src")
    assert belongs_here(image)


def test_scripts_in_an_image(bare: Lab, tmp_path: Path) -> None:
    """In an image the scripts use its packages and leave a .venv of the folder as it is; an image of another
    poetry.lock is refused."""
    image = tmp_path / "image"
    image.mkdir()
    (image / ".venv").symlink_to((bare.root / ".venv").resolve())
    shutil.copy(bare.root / "poetry.lock", image)
    (bare.root / ".venv").unlink()
    (bare.root / ".venv/bin").mkdir(parents=True)  # of another system
    script = bare.root / "scripts/run.sh"
    script.write_text(re.sub(r"(?m)^programs=.*$", "programs=(one.py)", script.read_text()))
    (bare.root / "one.py").write_text(
        "from src.utils.terminal import lab_command; print(lab_command())"
    )
    before = files(bare.root)
    shell = bare.start("bash", "scripts/run.sh", JIKKEN_VENV=str(image / ".venv"))
    assert shell.communicate(timeout=60) == ("lab\n", "")
    assert files(bare.root) == before
    (bare.root / "poetry.lock").write_text("")
    shell = bare.start("bash", "scripts/run.sh", JIKKEN_VENV=str(image / ".venv"))
    assert "build the image again" in shell.communicate(timeout=60)[1]


def test_dev_container() -> None:
    """devcontainer.json builds the Dockerfile, mounts the project where its packages look for it, and has the
    editor use them."""
    file = ROOT / ".devcontainer/devcontainer.json"
    settings = json.loads(file.read_text())
    assert (file.parent / settings["build"]["dockerfile"]).samefile(DOCKERFILE)
    folder = settings["workspaceFolder"]
    assert f"target={folder}," in settings["workspaceMount"]
    variables = " ".join(steps("ENV"))
    assert f"PYTHONPATH={folder}" in variables
    editor = settings["customizations"]["vscode"]
    packages = Path(editor["settings"]["python.defaultInterpreterPath"]).parents[1]
    assert f"JIKKEN_VENV={packages}" in variables
    assert settings["remoteUser"] in steps("USER")
    assert settings["postCreateCommand"] == "bash scripts/setup.sh"
    assert "redhat.vscode-yaml" in editor["extensions"]


def test_build_context() -> None:
    """What .dockerignore leaves out is not in git: the code in the image has a commit and no changes."""
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    assert not {".git", "**/.git"} & {*patterns}
    ignored = [
        one.strip("*/") for one in patterns if one and one[0] not in "#!_" and "*/" not in one
    ]
    tracked = subprocess.check_output(["git", "-C", ROOT, "ls-files"], text=True)
    names = [name for name in tracked.splitlines() if not name.endswith("README.md")]
    assert not [name for name in names for top in ignored if Path(name).parts[0] == top]
