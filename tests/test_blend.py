"""`lab blend`, `lab submit` and `lab submitted`, in a competition and on runs that are made by hand."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from src.utils.errors import UserError
from src.utils.lab.blend import blend_runs
from src.utils.lab.blend_weights import METHODS, Metric, Rows, cross_validate, hill_climb, ridge
from src.utils.lab.submit import write_submission
from src.utils.predictions import save_predictions
from src.utils.store.mlflow import open_store
from src.utils.store.objective import objective_by
from src.utils.store.record import RunRecord
from src.utils.store.reference import find_record

import numpy as np
import pandas as pd
import pytest
from conftest import Lab, add_experiment, copy_experiment, made_once
from laboratory import refused, said
from mlflow.entities import Run

NAME, PROGRAM = "model/model93", "src/model/model93/tabular.py"
SETTINGS = "defaults:\n  - /model\n  - _self_\n\ntask: numbers\nkind: linear\n"
SCORE = """
def score(target, prediction):
    if target.ndim < prediction.ndim:
        return float((prediction.argmax(axis=1) == target).mean())
    return -float(abs(target - prediction).mean())
"""


@pytest.fixture(scope="session")
def competition(shared: Path, clone: Lab) -> Lab:
    """A laboratory with two groups of three folds: a linear model, and trees. To be read only."""

    def make(lab: Lab) -> None:
        clone.copied(lab.root)
        add_experiment(lab, PROGRAM, SETTINGS)
        for kind in ("linear", "trees"):
            lab.done(PROGRAM, "folds=3", f"kind={kind}")

    return made_once(shared / "competition", make)


@pytest.fixture(name="own")
def an_own_one(competition: Lab, tmp_path: Path) -> Lab:
    """A copy of the competition that the test may change."""
    return competition.copied(tmp_path / "own")


def groups(lab: Lab) -> list[Run]:
    """The trees, then the linear model."""
    return [run for run in lab.runs(NAME) if "group.members" in run.data.tags]


def predictions(lab: Lab, run: Run, split: str = "oof") -> pd.DataFrame:
    return pd.read_parquet(lab.artifacts(run) / "predictions" / f"{split}.parquet")


def error(table: pd.DataFrame) -> float:
    return float(np.sqrt(((table.target - table.prediction) ** 2).mean()))


def test_group(competition: Lab) -> None:
    """A group holds each row out once, has the score of all rows together, and averages the test rows."""
    group = groups(competition)[0]
    table = predictions(competition, group)
    assert sorted(table.id) == list(range(300))
    assert (table.fold == table.id % 3).all()
    assert group.data.metrics["oof_score"] == pytest.approx(error(table))
    members = [
        run
        for run in competition.runs(NAME)
        if run.data.tags.get("group.run_id") == group.info.run_id
    ]
    tests = [predictions(competition, run, "test").prediction for run in members]
    assert len(tests) == 3
    mean = predictions(competition, group, "test").prediction
    assert mean.to_numpy() == pytest.approx(np.mean(tests, axis=0))


def test_blend(own: Lab) -> None:
    """A blend is a finished run that names its inputs, with predictions of its own, and better than both."""
    runs = groups(own)
    ids = [run.info.run_id for run in runs]
    output = said(own, "blend", *ids, "--note", "both")
    blend = own.newest("model/blend")
    assert blend.info.status == "FINISHED"
    assert blend.data.tags["blend.runs"].split() == ids
    assert blend.data.tags["monitor"] == "oof_score min"
    oof = predictions(own, blend)
    assert blend.data.metrics["oof_score"] == pytest.approx(error(oof))
    assert error(oof) < min(run.data.metrics["oof_score"] for run in runs)
    assert "The blend is better than the best run alone" in output
    weights = [float(weight) for weight in blend.data.tags["blend.weights"].split()]
    tests = [predictions(own, run, "test").prediction for run in runs]
    blended = predictions(own, blend, "test").prediction.to_numpy()
    assert blended == pytest.approx(weights[0] * tests[0] + weights[1] * tests[1], rel=1e-3)
    shown = said(own, "show", blend.info.run_id, COLUMNS="120")
    again = f"lab blend {ids[0][:8]} {ids[1][:8]} --method hill-climb"
    assert f"hill-climb blend of {ids[0][:8]} (weight " in shown
    assert f"bin/{again}" in shown or f"poetry run {again}" in shown
    assert f"{again} makes it again" in refused(own, "rerun", blend.info.run_id)


def test_leaderboard(own: Lab) -> None:
    """Scores of a competition stand beside local ones, and are sorted as the objective is."""
    trees, linear = groups(own)
    file = f"submission-{trees.info.run_id[:8]}.csv"
    assert f"{file}: 300 rows of id, prediction" in said(own, "submit", trees.info.run_id)
    assert len((own.root / file).read_text().splitlines()) == 301
    assert own.client.get_run(trees.info.run_id).data.tags["submission"] == file
    for run, score in ((trees, "0.7"), (linear, "0.4")):
        output = said(own, "submitted", run.info.run_id, "--public", score)
        assert f"public_score {score}" in output
    table = said(own, "runs", "--sort", "public_score")
    assert table.index(linear.info.run_id[:8]) < table.index(trees.info.run_id[:8])
    assert "oof_score" in table
    assert "--public 0.91" in refused(own, "submitted", "latest")


def test_name_of_blends(bare: Lab) -> None:
    """An experiment with the name of the blends is refused: its runs would be listed among them."""
    copy_experiment(bare, "model/model01", "model/blend")
    done = bare.run("src/model/blend/digit_classifier.py")
    assert done.returncode == 2
    assert done.stderr == (
        "error: model/blend is refused: lab blend records its runs under this name; "
        "give src/model/blend and config/model/blend another one\n"
    )


def test_direction_of_sorting() -> None:
    """A metric is sorted as the newest run says whose objective it is; a score, as the newest run says."""
    records = [
        RunRecord("", "", "", "FINISHED", None, None, "", tags={"monitor": monitor})
        for monitor in ("oof_score max", "val_score min", "val_score max")
    ]
    assert not objective_by("val_score", records).maximize
    assert objective_by("public_score", records).maximize
    assert not objective_by("test_loss", records).maximize


@pytest.fixture(scope="session", name="store")
def a_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store of MLflow for runs that are made by hand."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


MakeRun = Callable[..., str]


@pytest.fixture(name="make_run")
def a_maker(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeRun:
    """Makes finished runs that have predictions; returns their ids."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    client = open_store()
    number = client.create_experiment(f"model/{tmp_path.name}", str(tmp_path))

    def make(
        oof: Sequence[Any] | None = None,
        test: Sequence[Any] | None = None,
        code: str = SCORE,
        monitor: str = "val_acc max",
    ) -> str:
        tags = {"mlflow.source.name": "src/model/model99/program.py"}
        run = client.create_run(number, tags=tags | ({"monitor": monitor} if monitor else {}))
        folder = Path(run.info.artifact_uri)
        (folder / "source").mkdir(parents=True)
        (folder / "source" / "program.py").write_text(code)
        for split, data in (("oof", oof), ("test", test)):
            if data is not None:
                save_predictions(folder, split, *data)
        client.set_terminated(run.info.run_id)
        return str(run.info.run_id)

    return make


def test_classes(make_run: MakeRun) -> None:
    """Probabilities of classes are blended with one weight a run, whatever the order of the rows."""
    random = np.random.default_rng(0)
    target = random.integers(0, 3, 200)
    ids, other = np.arange(200), random.permutation(200)
    right = np.eye(3)[target]
    first = np.where(ids[:, None] % 2, right, random.dirichlet(np.ones(3), 200))
    second = np.where(ids[:, None] % 2, random.dirichlet(np.ones(3), 200), right)
    runs = [
        make_run((ids, first, target), ([1, 2], np.eye(3)[:2])),
        make_run((other, second[other], target[other]), ([2, 1], np.eye(3)[[1, 0]])),
    ]
    for method in METHODS:
        blend = blend_runs(runs, method)
        assert blend.score(blend.loss) > max(blend.score(loss) for loss in blend.losses)
        assert blend.weights.sum() == pytest.approx(1)
        assert blend.oof.values.sum(axis=1) == pytest.approx(1)
        assert blend.test is not None
        assert blend.test.values.tolist() == np.eye(3)[:2].tolist()


def test_several_targets(make_run: MakeRun) -> None:
    """Several targets are blended with one weight a run; a run without test rows leaves the blend without."""
    target = np.arange(40.0).reshape(20, 2)
    ids = [f"row {number:02}" for number in range(20)]
    runs = [
        make_run((ids, target + 1, target), (["a"], [[1.0, 2.0]])),
        make_run((ids, target - 1, target)),
    ]
    blend = blend_runs(runs, "ridge")
    assert blend.weights == pytest.approx([0.5, 0.5])
    assert blend.oof.values == pytest.approx(target)
    assert blend.test is None


NUMBERS = ([1, 2, 3], [0.1, 0.2, 0.3], [0, 1, 1])


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([{"oof": NUMBERS}, {}], "has no out-of-fold predictions: its program should call"),
        ([{"oof": NUMBERS[:2]}, {"oof": NUMBERS[:2]}], "no out-of-fold predictions with a target"),
        (
            [{"oof": NUMBERS}, {"oof": ([1, 2], [1, 1], [0, 1])}],
            r"run \w{8} \([\w-]+\) lacks row 3, which run \w{8} \([\w-]+\) has",
        ),
        (
            [{"oof": NUMBERS}, {"oof": ([1, 2, 3], [1, 1, 1], [0, 0, 1])}],
            r"run \w{8} \([\w-]+\) has another target of row 2 than run",
        ),
        ([{"oof": NUMBERS, "code": ""}] * 2, r"write def score\(target, prediction\) -> float at"),
        ([{"oof": NUMBERS, "monitor": ""}] * 2, "whether a higher or a lower score is better"),
        (
            [{"oof": NUMBERS, "code": "def score(target, prediction):\n    return target.area"}]
            * 2,
            r"score\(target, prediction\) failed with target \[3\] and prediction \[3\]: Attribute",
        ),
        (
            [{"oof": NUMBERS, "code": "def score(*_):\n    return float('nan')"}] * 2,
            "returned nan: it should be finite",
        ),
        ([{"oof": NUMBERS}], "needs two or more runs, each once"),
    ],
)
def test_mistakes(make_run: MakeRun, runs: list[dict[str, Any]], message: str) -> None:
    """What can't be blended is one line, which names the run and the row."""
    ids = [make_run(**one) for one in runs]
    with pytest.raises(UserError, match=message) as mistake:
        blend_runs(ids, "hill-climb")
    assert "\n" not in str(mistake.value)


def squared_error(target: np.ndarray, prediction: np.ndarray) -> float:
    return float(((target - prediction) ** 2).mean())


@pytest.fixture(name="noisy")
def noisy_rows() -> Rows:
    """Six runs, of which three are nothing but noise."""
    random = np.random.default_rng(0)
    target = random.normal(size=60)
    scales = np.array([0.5, 0.6, 0.9, 0, 0, 0])[:, None]
    stack = target * (scales > 0) + random.normal(size=(6, 60)) * np.where(scales, scales, 1)
    return Rows(target, stack, [])


@pytest.mark.parametrize("method", METHODS)
def test_no_leak(noisy: Rows, method: str) -> None:
    """The targets of a fold have no effect on the blended rows of that fold."""
    metric, folds = Metric(squared_error, maximize=False), np.arange(60) % 5
    blended = cross_validate(method, noisy, metric, folds)
    others = np.where(folds == 2, -noisy.target, noisy.target)
    changed = cross_validate(method, Rows(others, noisy.stack, []), metric, folds)
    assert (changed[folds == 2] == blended[folds == 2]).all()
    if method != "mean":
        assert (changed[folds != 2] != blended[folds != 2]).any()
        in_sample = noisy.blended(METHODS[method](noisy, metric))
        assert metric.loss(noisy.target, in_sample) < metric.loss(noisy.target, blended)


def test_weights(noisy: Rows) -> None:
    """Hill climbing and ridge find the least error among weights that are not negative and sum to 1."""
    metric = Metric(squared_error, maximize=False)
    three = Rows(noisy.target, noisy.stack[:3], [])
    grid = [np.array([a, b, 50 - a - b]) / 50 for a in range(51) for b in range(51 - a)]
    best = min(metric.loss(three.target, three.blended(weights)) for weights in grid)
    for weights in (hill_climb(three, metric), ridge(three, metric)):
        assert weights.sum() == pytest.approx(1)
        assert weights.min() >= 0
        assert metric.loss(three.target, three.blended(weights)) < 1.02 * best
    higher = Metric(lambda target, prediction: -squared_error(target, prediction), maximize=True)
    assert (hill_climb(three, higher) == hill_climb(three, metric)).all()


def test_ridge_of_labels() -> None:
    """Ridge takes labels that the columns are named after, and refuses others."""
    labels, right = np.array(["cat", "dog", "cat"]), np.array([[1, 0], [0, 1], [1, 0]], dtype=float)
    rows = Rows(labels, np.stack([right, 1 - right]), ["cat", "dog"])
    assert ridge(rows, Metric(squared_error, True))[0] > 0.7
    with pytest.raises(UserError, match="use --method hill-climb"):
        ridge(Rows(labels, rows.stack, ["0", "1"]), Metric(squared_error, True))


SAMPLE = "Id,cat,dog\n0003,0,0\n1,0,0\n"


@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        ([0.25, 0.75], {}, "id,prediction\n1,0.25\n0003,0.75\n"),
        ([0.25, 0.75], {"sample": "Id,p\n0003,0\n1,0\n"}, "Id,p\n0003,0.75\n1,0.25\n"),
        ([0.25, 0.75], {"labels": True}, "id,prediction\n1,0\n0003,1\n"),
        ([[1, 0], [0, 1]], {"sample": SAMPLE}, "Id,cat,dog\n0003,0.0,1.0\n1,1.0,0.0\n"),
        (
            pd.DataFrame({"dog": [1, 2], "cat": [3, 4]}),
            {"sample": SAMPLE},
            "Id,cat,dog\n0003,4.0,2.0\n1,3.0,1.0\n",
        ),
        (
            pd.DataFrame({"dog": [1, 2], "cat": [3, 1]}),
            {"sample": "Id,label\n0003,cat\n1,cat\n", "labels": True},
            "Id,label\n0003,dog\n1,cat\n",
        ),
    ],
)
def test_submission(
    make_run: MakeRun, tmp_path: Path, values: Any, options: dict[str, Any], expected: str
) -> None:
    """A submission has the columns, ids and order of the sample, and where these have names, by name."""
    run = make_run(test=(["1", "0003"], values))
    file, sample = tmp_path / "out" / "submission.csv", tmp_path / "sample.csv"
    sample.write_text(options.pop("sample", ""))
    given = sample if sample.read_text() else None
    write_submission(find_record(run), given, file, **options)
    assert file.read_text() == expected
    assert find_record(run).tags["submission"] == str(file)


def test_dates_as_ids(make_run: MakeRun, tmp_path: Path) -> None:
    """Times are found in the sample as they are written there."""
    sample, file = tmp_path / "sample.csv", tmp_path / "out.csv"
    text = "datetime,count\n2011-01-20 00:00:00,7.0\n2011-01-20 01:00:00,8.0\n"
    sample.write_text(text.replace("7", "0"))
    times = pd.Series(pd.to_datetime(["2011-01-20 01:00:00", "2011-01-20 00:00:00"]))
    write_submission(find_record(make_run(test=(times, [8, 7]))), sample, file)
    assert file.read_text() == text


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ("id,p\n1,0\n4,0\n", "the predictions lack the id 4"),
        ("id,p\n1,0\n", r"sample.csv lacks the id 2 and 1 more"),
        (
            "id,p,q\n1,0,0\n2,0,0\n3,0,0\n",
            "has the columns p, q besides the id, the predictions have",
        ),
        ("id,p\n1,0\n1,0\n", "it should have a column of ids, each once"),
        ("", "can't be read: "),
    ],
)
def test_wrong_samples(make_run: MakeRun, tmp_path: Path, sample: str, message: str) -> None:
    """A sample that doesn't fit is one line, and nothing is written."""
    file, out = tmp_path / "sample.csv", tmp_path / "out.csv"
    file.write_text(sample)
    run = find_record(make_run(test=([1, 2, 3], [1, 2, 3])))
    with pytest.raises(UserError, match=message):
        write_submission(run, file, out)
    assert not out.exists()
    with pytest.raises(UserError, match="exists already: name a new file"):
        write_submission(run, None, file)
    with pytest.raises(UserError, match="has no test predictions: its program should call"):
        write_submission(find_record(make_run()), None, None)
