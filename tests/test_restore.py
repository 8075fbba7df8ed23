"""Data of earlier runs are used again, and built again where they are gone; what no run needs can go."""

import json
import shutil
import signal
from pathlib import Path

from src.utils.lab.rerun_result import RerunResult

import numpy as np
import pytest
from conftest import DATASET, FEATURE, MODEL, QUICK, Lab, made_once
from laboratory import said, typed
from mlflow.entities import Run
from test_housekeeping import age
from test_resuming import stopped

LONG = (*QUICK, "max_epochs=12")
OTHER = "val_fraction=0.2"  # of the feature
IDENTICAL = ("weights: bit-identical", "verdict: identical")
GONE = "gone: lab rerun rebuilds it"
DATA_OF_RUN = """
    from src.utils.tracking import data_of_run
    print(data_of_run("{run}"))
"""


@pytest.fixture(scope="module", name="later")
def a_later_day(shared: Path, lab: Lab) -> Lab:
    """A laboratory whose newest run was stopped, and whose feature has other content now. To be read only."""

    def make(place: Lab) -> None:
        lab.copied(place.root)
        stopped(place, signal.SIGKILL, *LONG)
        place.done(FEATURE, OTHER)

    return made_once(shared / "later", make)


@pytest.fixture(name="today")
def a_copy(later: Lab, tmp_path: Path) -> Lab:
    return later.copied(tmp_path / "today")


def version(lab: Lab, run: Run, context: str = "input") -> Path:
    """The folder of the version that a run has read or made."""
    found = lab.client.get_run(run.info.run_id).inputs.dataset_inputs
    (data,) = [one.dataset for one in found if context in [tag.value for tag in one.tags]]
    return lab.root / "_data" / "versions" / data.name / data.digest


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix != ".json"}


def test_the_data_of_then(today: Lab) -> None:
    """A run that was stopped goes on with the data that it began with, whatever was built since, and its
    rerun is bit-identical. `data_of_run` gives these data, without a warning."""
    run = today.newest()
    then, now = version(today, run), version(today, today.newest("feature/feature01"), "output")
    assert then != now
    today.done(MODEL, f"resume_run={run.info.run_id}")
    text = said(today, "rerun", run.info.run_id)
    assert all(line in text for line in IDENTICAL)
    assert version(today, today.newest()) == then
    out, warned = today.python(DATA_OF_RUN.format(run=run.info.run_id))
    assert Path(out.strip()) == then
    assert "OTHER DATA" not in warned
    assert (today.root / "_data/feature/feature01").resolve() == now


def test_rebuilt_from_lineage(today: Lab) -> None:
    """A version that is gone is rebuilt with the same content, also when what it was made from is gone, and a
    rerun on it is bit-identical. `lab show` says what is gone."""
    run, feature = today.newest(), today.newest("feature/feature01")
    first = today.runs("model/model01")[-1]
    folder, dataset = version(today, run), version(today, feature)
    before = content(folder), content(dataset)
    shutil.rmtree(folder)
    shutil.rmtree(dataset)
    shown = said(today, "show", run.info.run_id, COLUMNS="160")
    assert shown.count(GONE) == 2
    data = json.loads(said(today, "show", run.info.run_id, "--json"))["data"]
    assert [one["present"] for one in data] == [False]
    text = said(today, "rerun", first.info.run_id)
    assert [line.split()[1] for line in text.splitlines() if line.startswith("rebuild")] == [
        "feature/feature01",
        "dataset/dataset01",
    ]
    assert all(line in text for line in IDENTICAL)
    assert (content(folder), content(dataset)) == before
    assert GONE not in said(today, "show", run.info.run_id)


def test_a_stage(today: Lab) -> None:
    """The rerun of a stage makes its data again, and the verdict is that on their content."""
    run = today.newest("feature/feature01")
    text = said(today, "rerun", run.info.run_id)
    assert "data: bit-identical" in text
    assert "verdict: identical" in text
    other = RerunResult(run, run, {}, 1.0, {"feature/feature01": ("1", "2")})
    assert (other.verdict, other.same_data) == ("different", False)


def test_what_is_missing(fresh: Lab) -> None:
    """Data that can't be rebuilt are an error of one line, which names what is missing: the raw files, which
    are gone or have other content, or the run. In place of a run that was deleted, another that made the same
    is repeated."""
    raw = fresh.root.with_name("raw")
    shutil.copytree(fresh.root / "_data/data/dataset01", raw)
    local = ("source=local", f"folder={raw}", "note=local")
    fresh.done(DATASET, *local)
    first, made = fresh.newest("dataset/dataset01"), "digits.npz"
    fresh.done(FEATURE, OTHER)
    fresh.done(DATASET, *local, "force=true")
    second, feature = fresh.newest("dataset/dataset01"), fresh.newest("feature/feature01")
    folder = version(fresh, feature)
    fresh.client.delete_run(first.info.run_id)
    shutil.rmtree(folder)

    def problem() -> str:
        done = typed(fresh, "rerun", feature.info.run_id)
        assert done.returncode == 2
        *_, line = done.stderr.splitlines()
        gone = f"dataset/dataset01 {folder.name[:8]} is gone"
        assert line.startswith(f"error: {gone} and can't be rebuilt: ")
        assert f"{gone}: run {second.info.run_id[:8]}" in done.stdout or "store" in line
        return line

    (raw / made).rename(raw.with_name(made))
    raw.rename(raw.with_name("moved"))
    assert problem().endswith(f" reads {raw}, which is no longer there")
    raw.mkdir()
    arrays = dict(np.load(raw.with_name(made)))
    np.savez(raw / made, **arrays | {"train_images": arrays["train_images"] // 2})
    assert problem().endswith(f"makes other data now: have the files of {raw} changed?")
    for run in fresh.runs("dataset/dataset01"):
        fresh.client.delete_run(run.info.run_id)
    assert problem().endswith(f": run {first.info.run_id[:8]}, which made it, is not in this store")


def unused(lab: Lab) -> dict[str, int]:
    """What `lab gc` offers of the versions, and the bytes that removing would free."""
    found = json.loads(said(lab, "gc", "--json"))["unused"]
    return {one["path"]: one["bytes"] for one in found if "versions" in one["path"]}


def test_what_no_run_names(today: Lab) -> None:
    """`lab gc` offers a version that no run names, unless it is new or a checkout has it in use. Bytes that
    other versions share are not counted."""
    versions = today.root / "_data/versions"
    run = today.newest("feature/feature01")
    folder = version(today, run, "output")
    today.client.delete_run(run.info.run_id)
    age(versions)
    assert unused(today) == {}  # it is in use
    today.done(FEATURE)
    age(versions)
    names = [str(path.relative_to(today.root)) for path in (folder, *builds_of(folder))]
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert len(names) == 2
    assert unused(today).keys() == set(names)
    assert unused(today)[names[0]] == size
    shared = next(folder.glob("*.safetensors"))
    (today.root / "link").hardlink_to(shared)
    assert unused(today)[names[0]] == size - shared.stat().st_size

    worktree = today.root.with_name("worktree")
    today.git("worktree", "add", "--quiet", worktree)
    link = worktree / "_data/feature/feature01"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(folder)
    assert unused(today) == {}
    link.unlink()
    (folder / "manifest.json").touch()
    assert unused(today) == {}  # it may have been made a moment ago
    age(versions)
    before = {*versions.glob("*/*/*")}
    said(today, "gc", "--yes")
    assert before - {*versions.glob("*/*/*")} == {folder}
    assert unused(today) == {}


def builds_of(folder: Path) -> list[Path]:
    """The records of builds whose result is a version."""
    files = (folder.parent / "builds").glob("*.json")
    return [file for file in files if folder.name in file.read_text()]
