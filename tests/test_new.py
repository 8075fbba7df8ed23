"""`lab new`: copying an experiment."""

import subprocess
from datetime import datetime
from pathlib import Path

import pytest
from conftest import MODEL, QUICK, Lab
from laboratory import LAB, refused, said


def tree(folder: Path) -> dict[str, bytes]:
    """The files of a folder, less what git ignores."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.suffix != ".pyc")
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in files
        if file.name != ".schema.json"
    }


def page(lab: Lab) -> Path:
    return lab.root / "diary" / f"{datetime.now():%Y-%m-%d}.md"


@pytest.mark.parametrize(
    ("old", "new", "options"),
    [
        ("model/model01", "model/model02", ["--from", "model01"]),
        ("model/model01", "model/wide_model", ["--from", "model/model01"]),
        ("feature/feature01", "feature/feature02", []),
        ("dataset/dataset01", "dataset/dataset09", ["--from", "dataset01", "--stage", "dataset"]),
    ],
)
def test_copies(bare: Lab, old: str, new: str, options: list[str]) -> None:
    """An experiment of any stage is copied with its config, its docstrings name the copy, and the diary
    gets an entry with the note."""
    option = "--idea" if old.startswith("dataset") else "--note"  # its name in earlier versions
    text = said(bare, "new", new.split("/")[1], *options, option, "more of the same")
    for side in ("src", "config"):
        renamed = tree(bare.root / side / old)
        renamed = {name: text.replace(old.encode(), new.encode()) for name, text in renamed.items()}
        assert tree(bare.root / side / new) == renamed
    program = next((bare.root / "src" / new).glob("*.py")).relative_to(bare.root)
    assert text.rstrip().endswith(f"python {program}")
    assert f"python {program}\n" in (bare.root / program).read_text().split('"""')[1]
    written = page(bare).read_text()
    assert f"## {new}, from {old}" in written
    assert "Note: more of the same" in written


def test_runs(fresh: Lab) -> None:
    """A new model runs as it is, as an experiment of its own."""
    said(fresh, "new", "model02")
    fresh.done(MODEL.replace("model01", "model02"), *QUICK)
    assert len(fresh.runs("model/model02")) == 1


@pytest.mark.parametrize(
    ("arguments", "parts"),
    {
        ("model01",): ["src/model/model01", "exists already"],
        ("model02", "--from", "modle01"): ["modle01", "did you mean model01?"],
        ("other",): ["other", "--from"],
        ("model-2", "--from", "model01"): ["model-2", "letters"],
        ("../model2", "--from", "model01"): ["../model2", "letters"],
        ("blend", "--from", "model01"): ["model/blend is refused", "lab blend records its runs"],
        ("model02", "--from", "twin"): ["twin", "feature and model", "--stage"],
    }.items(),
)
def test_refusals(bare: Lab, arguments: tuple[str, ...], parts: list[str]) -> None:
    """An existing folder, an unknown source or a bad name is an error of one line, and nothing is written."""
    for stage in ("feature", "model"):
        said(bare, "new", "twin", "--from", f"{stage}/{stage}01")
    before = bare.files()
    line = refused(bare, "new", *arguments)
    assert [part for part in parts if part not in line] == []
    assert bare.files() == before


def test_stage_decides(bare: Lab) -> None:
    """--stage chooses between experiments of one name."""
    for stage in ("feature", "model"):
        said(bare, "new", "twin", "--from", f"{stage}/{stage}01")
    said(bare, "new", "twin02", "--from", "twin", "--stage", "feature")
    assert (bare.root / "src/feature/twin02").is_dir()


def test_asks(bare: Lab) -> None:
    """Without arguments it asks for them, with defaults."""
    answers = "\n\na wider network\n"
    environment = {"PYTHONPATH": str(bare.root), "PATH": "/usr/bin:/bin", "COLUMNS": "100"}
    done = subprocess.run(
        [LAB, "new"], input=answers, env=environment, text=True, capture_output=True, check=True
    )
    assert done.stderr == ""
    assert "[model/model01]" in done.stdout
    assert "[model02]" in done.stdout
    assert (bare.root / "src/model/model02").is_dir()
    assert "a wider network" in page(bare).read_text()
