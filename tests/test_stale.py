"""Data that are out of date: a run sees it, says why, and builds them again, or keeps them if told to."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import DATASET, FEATURE, MODEL, QUICK, Lab, copy_experiment
from laboratory import said as said_by

REASONS = """
    from src.utils.pipeline.manifest import Manifest
    from src.utils.pipeline.recipe import reasons_to_rebuild
    from src.utils.paths import Experiment
    for name in ("dataset/dataset01", "feature/feature01"):
        what = Experiment.named(name)
        print(*reasons_to_rebuild(what, Manifest.read(what)), sep="; ")
"""
READER = '''"""A model that tells which data it reads.

python src/model/model91/reader.py
"""

from src.utils.experiment import experiment
from src.utils.run import Run
from src.utils.settings import TrainingSettings


class Config(TrainingSettings):
    feature: list[str]
    x: float


@experiment
def main(cfg: Config, run: Run) -> float:
    print([folder.name for folder in run.inputs("feature")], run.input("feature02").name)
    run.tag({"read": (run.input("feature01") / "manifest.json").read_text()[:120]})
    return cfg.x


if __name__ == "__main__":
    main()
'''
PROGRAM = "src/model/model91/reader.py"


def reasons(lab: Lab) -> list[str]:
    """Why the dataset, and why the feature, is out of date; empty where it is not."""
    out, _ = lab.python(REASONS)
    return out.split("\n")[:2]


@pytest.fixture
def files(lab: Lab, tmp_path: Path) -> Path:
    """The data in a folder that the test may change."""
    folder = tmp_path / "files"
    folder.mkdir()
    shutil.copy(lab.root / "_data/data/dataset01/digits.npz", folder)
    return folder


def halve(files: Path) -> None:
    """Leave every second training picture."""
    arrays = dict(np.load(files / "digits.npz"))
    train = {name: array[::2] for name, array in arrays.items() if name.startswith("train")}
    np.savez(files / "digits.npz", **arrays | train)


def set_value(lab: Lab, experiment: str, old: str, new: str) -> None:
    """Change a value in the settings of an experiment."""
    file = lab.root / "config" / experiment / "config.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_a_training_rebuilds(fresh: Lab, files: Path) -> None:
    """A training builds again what settings or sources have left behind, and says why; once, and not
    with stale=ignore."""
    fresh.done(DATASET, "source=local", f"folder={files}", "force=true")
    set_value(fresh, "feature/feature01", "val_fraction: 0.1", "val_fraction: 0.2")
    halve(files)
    short = (*QUICK, "max_epochs=1")
    kept = fresh.done(MODEL, *short, "stale=ignore")
    assert "feature/feature01 is OUT OF DATE and used as it is" in kept
    assert len(fresh.runs("feature/feature01")) == 1
    assert fresh.newest().data.tags["data.source"] == "sample"
    said = fresh.done(MODEL, *short)
    assert "feature/feature01 is out of date (" in said
    assert "val_fraction=0.2 in config/feature/feature01, it was 0.1" in said
    assert f"the files of {files} changed" in said
    assert "2500 train and 1000 test images (local)" in said
    assert "2000 train, 500 val" in said
    assert fresh.newest().data.tags["data.source"] == "local"
    assert reasons(fresh) == ["", ""]
    assert len(fresh.runs("feature/feature01")) == 2


def test_what_was_typed_is_kept(fresh: Lab, files: Path) -> None:
    """Data are built again with what was typed for them, where it was typed; that is no difference to
    the config, and files that are gone are none either."""
    made = fresh.run(DATASET, "source=local", f"folder={files.name}", cwd=files.parent)
    assert made.returncode == 0, made.stderr
    fresh.done(FEATURE, "val_fraction=0.2")
    set_value(fresh, "feature/feature01", "val_fraction: 0.1", "val_fraction: 0.3")
    assert reasons(fresh) == ["", ""]
    with (fresh.root / DATASET).open("a") as code:
        code.write("# another line\n")
    changed = "src/dataset/dataset01/digits.py changed"
    assert reasons(fresh) == [changed, f"dataset/dataset01 is out of date: {changed}"]
    said = fresh.done(FEATURE, "val_fraction=0.2")
    assert f"dataset/dataset01 is out of date ({changed}): building it again" in said
    assert fresh.newest("dataset/dataset01").data.tags["data.source"] == "local"
    assert "is up to date" in said  # the same images came out
    shutil.rmtree(files)
    assert reasons(fresh) == ["", ""]


def test_older_manifests(fresh: Lab) -> None:
    """Data from before recipes were kept count as up to date; a stage that finds them so writes one."""
    recipes = list((fresh.root / "_data").rglob(".*.recipe.json"))
    assert len(recipes) == 2
    for recipe in recipes:
        recipe.unlink()
    set_value(fresh, "feature/feature01", "val_fraction: 0.1", "val_fraction: 0.2")
    assert reasons(fresh) == ["", ""]
    assert "is up to date" in fresh.done(FEATURE, "val_fraction=0.1")
    (recipe,) = (fresh.root / "_data").rglob(".*.recipe.json")
    assert json.loads(recipe.read_text())["overrides"] == ["val_fraction=0.1"]


def test_a_folder_that_is_not_used(fresh: Lab, tmp_path: Path) -> None:
    """A folder that a stage is given and does not use is not read."""
    huge = tmp_path / "folder" / "huge"
    huge.parent.mkdir()
    huge.touch()
    os.truncate(huge, 2**40)  # bytes of nothing, which would take hours to digest
    said = fresh.done(DATASET, "source=sample", f"folder={huge.parent}")
    assert "5000 train and 1000 test images (sample)" in said


@pytest.fixture(name="reader")
def a_reader(fresh: Lab) -> Lab:
    """A laboratory with a second feature, and a model that reads both."""
    copy_experiment(fresh, "feature/feature01", "feature/feature02")
    for side, file, text in (
        ("src", "reader.py", READER),
        (
            "config",
            "config.yaml",
            "defaults: [/training, _self_]\nfeature: [feature01, feature02]\nx: 0.5\n",
        ),
    ):
        folder = fresh.root / side / "model/model91"
        folder.mkdir()
        (folder / file).write_text(text)
    return fresh


def test_several_features(reader: Lab) -> None:
    """A model reads as many features as it names; a sweep checks them once, before its trials."""
    set_value(reader, "feature/feature01", "val_fraction: 0.1", "val_fraction: 0.2")
    said = reader.done(PROGRAM, "-m", "x=0.1,0.2", "hydra.sweeper.n_jobs=2")
    assert said.count("building it again") == said.count("building it first") == 1
    trials = [run for run in reader.runs("model/model91") if "optuna.trial" in run.data.tags]
    assert [run.info.status for run in trials] == ["FINISHED"] * 2
    now = (reader.root / "_data/feature/feature01/manifest.json").read_text()
    assert {run.data.tags["read"] for run in trials} == {now[:120]}
    read = [one.dataset.name for one in trials[0].inputs.dataset_inputs]
    assert sorted(read) == ["feature/feature01", "feature/feature02"]
    assert not reader.newest("feature/feature02").info.run_name.startswith("trial")
    best = json.loads(said_by(reader, "best", "model91", "--json"))
    assert best["metrics"]["objective"] == 0.1  # what main returned: this model has no trainer
    assert best["tags"]["monitor"] == "objective min"


RACE = """
    from src.utils.pipeline.manifest import Manifest
    from src.utils.paths import Experiment
    from src.utils.run import create_run
    import mlflow.store.tracking.sqlalchemy_store as store
    from mlflow.exceptions import MlflowException

    record, calls = store.SqlAlchemyStore._log_inputs_impl, []
    def second_time(*arguments, **named):
        calls.append(1)
        if len(calls) == 1:
            raise MlflowException("UNIQUE constraint failed: datasets.experiment_id")
        return record(*arguments, **named)
    store.SqlAlchemyStore._log_inputs_impl = second_time

    read = Manifest.read(Experiment.named("feature/feature01"))
    run = create_run(Experiment.named("model/model01"), {}, [read])
    run.log_dataset(read, "input")
    print(len(run.client.get_run(run.id).inputs.dataset_inputs), len(calls))
    run.close("FINISHED")
"""


def test_two_trials_record_the_same_data(fresh: Lab) -> None:
    """Two trials that are the first to record the same data, in one moment, both have them."""
    assert fresh.python(RACE)[0].split() == ["1", "2"]


def test_unknown_names(reader: Lab) -> None:
    """A feature or a stage that does not exist is answered with those that do."""
    for program, override, answer in (
        (
            PROGRAM,
            "feature=[feature01,feature99]",
            "feature=feature99 is refused: there are feature01",
        ),
        (PROGRAM, "feature=[../../etc]", "there are feature01, feature02"),
        (FEATURE, "dataset=dataset99", "dataset=dataset99 is refused: there are dataset01"),
    ):
        refused = reader.run(program, override)
        assert refused.returncode == 2
        assert refused.stderr.count("\n") == 1
        assert answer in refused.stderr
