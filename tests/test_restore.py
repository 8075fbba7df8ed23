"""Data of earlier runs are used again, and built again where they are gone; what no run needs can go."""

import json
import shutil
import signal
from pathlib import Path

from src.utils.lab.rerun_result import RerunResult

import pytest
from conftest import DATASET, FEATURE, MODEL, QUICK, Lab, made_once
from laboratory import said
from mlflow.entities import Run
from test_housekeeping import age
from test_resuming import stopped

LONG = (*QUICK, "max_epochs=12")
OTHER = "val_fraction=0.2"  # of the feature
IDENTICAL = ("weights: bit-identical", "verdict: identical")
GONE = "gone: lab rerun rebuilds it"
ADOPT = """
    from pathlib import Path
    from src.utils.paths import Experiment
    from src.utils.runs.restore import adopt
    print(adopt(Path("{checkout}"), Experiment.named("feature/feature01")).folder)
"""
MISSING = """
    import shutil
    from pathlib import Path
    import numpy as np
    from src.utils.errors import UserError
    from src.utils.runs.restore import ensure_version
    from src.utils.store.mlflow import open_store

    version, raw, client = Path("{version}"), Path("{raw}"), open_store()

    def ensure():
        shutil.rmtree(version, ignore_errors=True)
        try:
            print(ensure_version("dataset/dataset01", version.name, "{run}"))
        except UserError as error:
            print(error)

    raw.rename("moved")
    ensure()
    Path("moved").rename(raw)
    arrays = dict(np.load(raw / "digits.npz"))
    np.savez(raw / "digits.npz", **arrays | {{"train_images": arrays["train_images"] // 2}})
    ensure()
    client.delete_run("{run}")
    ensure()
    experiment = client.get_experiment_by_name("dataset/dataset01").experiment_id
    for run in client.search_runs([experiment]):
        client.delete_run(run.info.run_id)
    ensure()
"""
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
    """A run that was stopped goes on with the data that it began with, whatever was built since. Where they
    are gone, they are rebuilt with the same content, and what they were made from as well: the rerun is
    bit-identical. `lab show` says what is gone, and `data_of_run` gives the version of the run."""
    run, feature = today.newest(), today.newest("feature/feature01")
    then, now = version(today, run), version(today, feature, "output")
    assert then != now
    today.done(MODEL, f"resume_run={run.info.run_id}")
    dataset = version(today, feature)
    before = content(then), content(dataset)
    for folder in (then, dataset):
        shutil.rmtree(folder)
    assert said(today, "show", run.info.run_id, COLUMNS="160").count(GONE) == 2
    data = json.loads(said(today, "show", run.info.run_id, "--json"))["data"]
    assert [one["present"] for one in data] == [False]
    text = said(today, "rerun", run.info.run_id)
    rebuilt = [line.split()[1] for line in text.splitlines() if line.startswith("rebuild")]
    assert rebuilt == ["feature/feature01", "dataset/dataset01"]
    assert all(line in text for line in IDENTICAL)
    assert version(today, today.newest()) == then
    assert (content(then), content(dataset)) == before
    out, warned = today.python(DATA_OF_RUN.format(run=run.info.run_id))
    assert (Path(out.strip()), warned) == (then, "")
    assert (today.root / "_data/feature/feature01").resolve() == now


def test_a_stage(today: Lab) -> None:
    """The rerun of a stage makes its data again, and the verdict is that on their content. A plain folder, as
    earlier code makes it, is taken into the versions."""
    run = today.newest("feature/feature01")
    text = said(today, "rerun", run.info.run_id)
    assert "data: bit-identical" in text
    assert "verdict: identical" in text
    other = RerunResult(run, run, {}, 1.0, {"feature/feature01": ("1", "2")})
    assert (other.verdict, other.same_data) == ("different", False)
    folder, checkout = version(today, run, "output"), today.root / "outputs" / "reruns" / "earlier"
    (checkout / "_data" / "feature").mkdir(parents=True)
    folder.rename(checkout / "_data" / "feature" / "feature01")
    out, _ = today.python(ADOPT.format(checkout=checkout))
    assert Path(out.strip()) == folder
    assert (folder / "manifest.json").exists()


def test_what_is_missing(fresh: Lab) -> None:
    """Data that can't be rebuilt are an error of one line, which names what is missing: the raw files, which
    are gone or have other content, or the run. In place of a run that was deleted, another that made the same
    is repeated."""
    raw = fresh.root.with_name("raw")
    shutil.copytree((fresh.root / "_data/data/dataset01").resolve(), raw)
    fresh.done(DATASET, "source=local", f"folder={raw}")
    run, first = fresh.runs("dataset/dataset01")
    folder = version(fresh, run, "output")
    assert version(fresh, first, "output") == folder
    out, _ = fresh.python(MISSING.format(version=folder, run=run.info.run_id, raw=raw))
    reads, other, deleted = [line for line in out.splitlines() if "can't be" in line]
    gone, maker = f"dataset/dataset01 {folder.name[:8]} is gone", f"run {run.info.run_id[:8]}"
    begin = f"{gone} and can't be rebuilt: {maker}"
    assert reads == f"{begin} reads {raw}, which is no longer there"
    assert other == f"{begin} makes other data now: have the files of {raw} changed?"
    assert deleted == f"{begin}, which made it, is not in this store"
    assert f"{gone}: run {first.info.run_id[:8]}, which made it, is repeated" in out
    assert f"{folder}\n" in out


def unused(lab: Lab) -> dict[str, int]:
    """What `lab gc` offers of the versions, and the bytes that removing would free."""
    found = json.loads(said(lab, "gc", "--json"))["unused"]
    return {one["path"]: one["bytes"] for one in found if "versions" in one["path"]}


def test_what_no_run_names(today: Lab) -> None:
    """`lab gc` offers a version that no run names, unless a checkout has it in use. Bytes that other versions
    share are not counted."""
    versions = today.root / "_data/versions"
    run = today.newest("feature/feature01")
    folder = version(today, run, "output")
    today.client.delete_run(run.info.run_id)
    age(versions)
    assert unused(today) == {}  # it is in use
    today.done(FEATURE)
    age(versions)
    shared = next(folder.glob("*.safetensors"))
    (today.root / "link").hardlink_to(shared)
    size = sum(file.stat().st_size for file in folder.iterdir()) - shared.stat().st_size
    names = [str(path.relative_to(today.root)) for path in (folder, *builds_of(folder))]
    assert len(names) == 2
    found = unused(today)
    assert found.keys() == {*names}
    assert found[names[0]] == size

    worktree = today.root.with_name("worktree")
    today.git("worktree", "add", "--quiet", worktree)
    link = worktree / "_data/feature/feature01"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(folder)
    assert unused(today) == {}
    link.unlink()
    before = {*versions.glob("*/*/*")}
    said(today, "gc", "--yes")
    assert before - {*versions.glob("*/*/*")} == {folder}


def builds_of(folder: Path) -> list[Path]:
    """The records of builds whose result is a version."""
    files = (folder.parent / "builds").glob("*.json")
    return [file for file in files if folder.name in file.read_text()]
