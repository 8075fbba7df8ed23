"""The rules for experiments, and whether each one starts. It needs none of the other tests, and no network.

bash scripts/test.sh
.venv/bin/python -m pytest tests/test_experiments.py -k model01
"""

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from src.utils.paths import ROOT, data_folder, is_program, list_stages

import pytest
import yaml

STAGES = list_stages()
EXPERIMENTS = [
    folder
    for place in (
        ROOT,
        ROOT / "template" / "minimal",
    )  # those of this project, and the smallest of each stage
    for stage in STAGES
    for folder in sorted((place / "src" / stage).glob("*/"))
    if any(folder.glob("*.py"))
]
OWN = [folder for folder in EXPERIMENTS if folder.is_relative_to(ROOT / "src")]
NOT_INHERITED = ("MLFLOW_", "OPTUNA_", "HYDRA_", "JIKKEN_")


def name(folder: Path) -> str:
    return str(folder.relative_to(ROOT))


def config(folder: Path) -> Path:
    """config/model/model01 of src/model/model01."""
    return folder.parents[2] / "config" / folder.parent.name / folder.name


def program(folder: Path) -> Path:
    """The one file with an `@experiment`."""
    (found,) = filter(is_program, folder.glob("*.py"))
    return found


def imported(file: Path) -> Iterator[str]:
    """The dotted names that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def code_without_docstrings(file: Path) -> str:
    """Code as it runs."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


@pytest.mark.parametrize("folder", EXPERIMENTS, ids=name)
def test_imports(folder: Path) -> None:
    """An experiment imports `src.utils`, its own siblings and libraries, and never relatively."""
    ours = [
        module
        for file in folder.rglob("*.py")
        for module in imported(file)
        if module.partition(".")[0] in ("src", "")
    ]
    assert ours
    assert [module for module in ours if not module.startswith("src.utils.")] == []


@pytest.mark.parametrize("folder", EXPERIMENTS, ids=name)
def test_no_self_naming(folder: Path) -> None:
    """No experiment names itself in its code or in its settings, so that a copy needs no edit."""
    texts = [code_without_docstrings(file) for file in folder.rglob("*.py")]
    texts += [file.read_text() for file in config(folder).rglob("*.yaml")]
    assert len(texts) >= 2
    assert not [text for text in texts if folder.name in text]


@pytest.mark.parametrize("folder", EXPERIMENTS, ids=name)
def test_one_program(folder: Path) -> None:
    """An experiment has exactly one program, and its docstring says how to run it."""
    programs = list(filter(is_program, folder.glob("*.py")))
    assert len(programs) == 1
    command = f"python {programs[0].relative_to(folder.parents[2])}"
    assert command in (ast.get_docstring(ast.parse(programs[0].read_text())) or "")


@pytest.mark.parametrize("stage", STAGES)
def test_config_mirrors_source(stage: str) -> None:
    """Each folder of src/<stage> has its settings in config/<stage>, and the other way round."""
    sources = {file.parent.name for file in (ROOT / "src" / stage).glob("*/*.py")}
    settings = {file.parent.name for file in (ROOT / "config" / stage).glob("*/config.yaml")}
    assert sources == settings


@pytest.mark.parametrize("folder", OWN, ids=name)
def test_settings(folder: Path) -> None:
    """The settings of an experiment can be composed."""
    assert "seed" in settings(folder)


@pytest.mark.parametrize("folder", OWN, ids=name)
def test_two_batches(folder: Path, tmp_path: Path) -> None:
    """A Lightning training whose inputs are there trains two batches; in a copy, so that no run is kept."""
    values = settings(folder)
    if "trainer" not in values:
        pytest.skip("no Lightning training")
    missing = [data for data in inputs(values) if not (data / "manifest.json").exists()]
    if missing:
        pytest.skip(f"{', '.join(map(name, missing))} has not been built")
    for part in ("src", "config"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "_data").symlink_to(ROOT / "_data")
    run(program(folder), "stale=ignore", "+trainer.fast_dev_run=2", root=tmp_path)


@cache
def settings(folder: Path) -> dict[str, Any]:
    """What `--cfg job` prints."""
    return dict(yaml.safe_load(run(program(folder), "--cfg", "job")))


def inputs(values: dict[str, Any]) -> list[Path]:
    """The folders of the data that an experiment reads."""
    named = {stage: values.get(stage) or [] for stage in STAGES}
    return [
        data_folder(stage) / one
        for stage, names in named.items()
        for one in ([names] if isinstance(names, str) else names)
    ]


def run(file: Path, *arguments: str, root: Path = ROOT) -> str:
    """Run a program, of this project or of a copy, and return what it prints; it must succeed."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(NOT_INHERITED)}
    done = subprocess.run(
        [sys.executable, root / file.relative_to(ROOT), *arguments],
        env=inherited | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
