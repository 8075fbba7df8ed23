"""The second worked example: a tabular competition from its files to a scored submission."""

import shutil
from pathlib import Path

from src.utils.cores import count_cores
from src.utils.errors import UserError
from src.utils.folds import assign_folds, training_rows

import numpy as np
import pandas as pd
import pytest
from conftest import ENGINE, ROOT, Lab, carry, commit, made_once
from laboratory import said
from test_notebooks import RUN

DATASET = "src/dataset/dataset02/competition.py"
TREES, MLP = "src/model/model02/boosted_trees.py", "src/model/model03/tabular_mlp.py"
BIKES = ROOT / "_data/sample/bikes"
needed = pytest.mark.skipif(
    not (ROOT / TREES).exists(), reason="the worked example was removed from this project"
)
QUICK = ("rounds=60", "learning_rate=0.2", "num_leaves=15")
CARRIED = (*ENGINE, "src/dataset", "src/feature", "src/model", "config", "_data/sample")


@pytest.fixture(scope="session", name="bikes")
def a_group_of_trees(shared: Path) -> Lab:
    """This repository, in which the trees were trained on five folds. To be read only."""

    def make(lab: Lab) -> None:
        carry([*CARRIED, "notebooks"], lab.root)
        commit(lab)
        lab.done(TREES, *QUICK, "folds=5")

    return made_once(shared / "bikes", make)


def rmsle(lab: Lab, file: Path) -> float:
    return float(lab.done("scripts/score_submission.py", str(file)).split()[1])


@needed
def test_no_torch(bikes: Lab) -> None:
    """A run of the trees imports neither torch nor Lightning."""
    answer = bikes.copied(bikes.root.with_name("bikes_imports"))
    imported = answer.question(answer.root / TREES, *QUICK).imported
    assert "lightgbm" in imported
    assert not {"torch", "pytorch_lightning"} & imported


@needed
def test_hidden_counts(bikes: Lab) -> None:
    """What features and models read does not hold the hidden counts, nor any of their weeks' in a fold's."""
    assert not list((bikes.root / "_data/data").rglob("solution.csv"))
    test = pd.read_parquet(bikes.root / "_data/feature/feature02/test.parquet")
    assert not {"count", "casual", "registered"} & {*test.columns}
    ids = pd.read_csv(BIKES / "solution.csv")["id"]
    train = pd.read_parquet(bikes.root / "_data/feature/feature02/train.parquet")
    assert not set(train["id"]) & set(ids)
    hours = pd.read_csv(BIKES / "train.csv", parse_dates=["datetime"])
    weeks = hours["datetime"].dt.to_period("W")
    assert (train["fold"].groupby(weeks.to_numpy()).nunique() == 1).all()
    assert sorted(set(train["fold"])) == list(range(5))


@needed
def test_group(bikes: Lab) -> None:
    """The group of five has a score for each row with a target, and it is a good one."""
    group = next(run for run in bikes.runs("model/model02") if "group.members" in run.data.tags)
    assert group.data.metrics["oof_score"] < 0.36
    assert group.data.metrics["val_rmsle"] == pytest.approx(
        group.data.metrics["oof_score"], abs=0.03
    )
    oof = pd.read_parquet(bikes.artifacts(group) / "predictions/oof.parquet")
    assert len(oof) == oof["id"].nunique() == 6485


@needed
def test_scores_of_submissions(bikes: Lab, tmp_path: Path) -> None:
    """The host scores a submission in any order, and refuses one with other rows."""
    solution = pd.read_csv(BIKES / "solution.csv")
    file = tmp_path / "submission.csv"
    solution.sample(frac=1, random_state=0).to_csv(file, index=False)
    assert rmsle(bikes, file) == 0
    solution.iloc[1:].to_csv(file, index=False)
    refused = bikes.run("scripts/score_submission.py", str(file))
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: the ids should be those of test.csv")


@needed
def test_blend_and_submission(bikes: Lab, tmp_path: Path) -> None:
    """Trees and network are blended by their out-of-fold rows; the blend's submission is scored, and all of
    it is in the notebook."""
    own = bikes.copied(tmp_path / "blended")
    on_cpu = "trainer.accelerator=cpu"
    text = own.done(MLP, "folds=5", "max_epochs=6", on_cpu, CUDA_VISIBLE_DEVICES="0")
    assert f"{min(count_cores(), 4)} at a time" in text  # and don't wait for the GPU
    table = said(own, "blend", "model02/latest", "model03/latest", "--method", "ridge")
    assert "the blend" in table
    blend = own.newest("model/blend")
    assert set(blend.data.tags["blend.runs"].split()) == {
        next(
            run.info.run_id
            for run in own.runs(f"model/model0{number}")
            if "group.members" in run.data.tags
        )
        for number in (2, 3)
    }
    said(own, "submit", "blend/latest", "--format", BIKES / "sample_submission.csv")
    file = own.root / f"submission-{blend.info.run_id[:8]}.csv"
    public = rmsle(own, file)
    assert 0.3 < public < 0.6
    said(own, "submitted", "blend/latest", "--public", str(public))
    assert own.newest("model/blend").data.metrics["public_score"] == pytest.approx(public)
    notebook = own.root / "notebooks/competition.ipynb"
    own.python(RUN.format(file=notebook, where=notebook.parent))
    assert f"{public:.4f}" in notebook.read_text()


@needed
def test_changed_files(bikes: Lab, tmp_path: Path) -> None:
    """A competition whose test rows have the target is refused in one line, before anything is replaced."""
    own = bikes.copied(tmp_path / "own")
    folder = Path(shutil.copytree(BIKES, tmp_path / "files"))
    shutil.copy(folder / "train.csv", folder / "test.csv")
    refused = own.run(DATASET, "source=local", f"folder={folder}")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert refused.stderr.startswith("error: sample_submission.csv and test.csv differ in their id")


def test_stratified_folds() -> None:
    """Each fold has the same share of each class, and of a continuous value the same distribution."""
    classes = np.repeat(["a", "b"], [80, 20])
    folds = assign_folds(classes, 5, "stratified")
    assert [(folds[classes == "b"] == fold).sum() for fold in range(5)] == [4] * 5
    values = np.random.default_rng(0).normal(size=1000)
    folds = assign_folds(values, 5, "stratified")
    assert max(abs(values[folds == fold].mean()) for fold in range(5)) < 0.1


def test_grouped_folds() -> None:
    """A group is in one fold; another seed shuffles them differently."""
    groups = np.repeat(np.arange(20), 7)
    folds = assign_folds(groups, 5, "grouped")
    assert all(len(set(folds[groups == group])) == 1 for group in range(20))
    assert (assign_folds(groups, 5, "grouped", seed=1) != folds).any()


def test_folds_in_time() -> None:
    """The first block is never held out, and a model trains on earlier rows only."""
    time = np.random.default_rng(0).permutation(60)
    folds = assign_folds(time, 5, "time")
    assert sorted(set(folds)) == [-1, 0, 1, 2, 3, 4]
    for fold in range(5):
        assert time[training_rows(folds, fold, "time")].max() < time[folds == fold].min()
    assert (training_rows(folds, 2, "grouped") == (folds != 2)).all()


def test_folds_of_a_column() -> None:
    """A column of folds is taken as it is, and refused if a fold is missing."""
    assert assign_folds([0, 1, -1, 1], 2, "column").tolist() == [0, 1, -1, 1]
    with pytest.raises(UserError, match="should hold 0 to 2"):
        assign_folds([0, 1, 1], 3, "column")
    with pytest.raises(UserError, match="folds=5 split=grouped"):
        assign_folds([0, 1, 1], 5, "grouped")
