"""The verdict between two groups: it finds what is there, and claims no more than the runs give."""

import re

from src.utils.lab.verdict import describe
from src.utils.statistics import (
    compare,
    enough_for,
    is_significant,
    signed_rank_test,
    t_test,
)
from src.utils.store.objective import Objective

import numpy as np
import pytest
from conftest import Lab
from groups import add_group
from laboratory import said
from scipy import stats
from test_leaderboard import Store

DRAWS = 10_000
# At most 5 %, up to what 10,000 draws of an exact test may show by chance (2.6 standard errors)
MOST_FALSE = 0.05 + 2.6 * np.sqrt(0.05 * 0.95 / DRAWS)
ACCURACY, LOSS = Objective("val_acc", maximize=True), Objective("val_loss", maximize=False)


@pytest.fixture(name="store", scope="module")
def a_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("verdict") / "mlflow.db")


def false_verdicts(differences: np.ndarray, correction: float) -> float:
    """The share of verdicts among draws [draws, folds or seeds]."""
    _, p = t_test(differences, correction)
    ranks = signed_rank_test(differences)
    return float(is_significant(p, ranks, differences.shape[-1]).mean())


@pytest.mark.parametrize("folds", [3, 5, 10])
@pytest.mark.parametrize("noise", [0.0, 1.0, 3.0])
def test_folds_without_a_difference(folds: int, noise: float) -> None:
    """Of 10,000 comparisons without a difference, over folds that correlate by 1/k and three seeds each, at
    most 5 % end with a verdict, however much of the spread is that of the seeds. Every pair counted as
    independent would give two to ten times as many."""
    random = np.random.default_rng(folds)
    shared = random.normal(size=(DRAWS, 1, 1)) / np.sqrt(folds)
    own = random.normal(size=(DRAWS, folds, 1)) * np.sqrt(1 - 1 / folds)
    pairs = shared + own + noise * random.normal(size=(DRAWS, folds, 3))
    assert false_verdicts(pairs.mean(axis=-1), 1 / (folds - 1)) <= MOST_FALSE
    assert (t_test(pairs.reshape(DRAWS, -1))[1] < 0.05).mean() > 0.09


@pytest.mark.parametrize("folds", [3, 5, 10])
def test_cross_validation_without_a_difference(folds: int) -> None:
    """Of 10,000 data sets, on which two models that are equally good on average are cross-validated, at most
    5 % give a verdict."""
    random = np.random.default_rng(folds)
    inputs = random.normal(size=(2, DRAWS, 30))
    target = inputs.sum(axis=0) + random.normal(
        size=(DRAWS, 30)
    )  # each model sees one of two inputs
    scores = np.stack([cross_validated(one, target, folds, random) for one in inputs])
    differences = (scores[1] - scores[0]).mean(axis=-1)
    assert scores.shape == (2, DRAWS, folds, 2)
    assert false_verdicts(differences, 1 / (folds - 1)) <= MOST_FALSE


def cross_validated(
    inputs: np.ndarray, target: np.ndarray, folds: int, random: np.random.Generator
) -> np.ndarray:
    """The errors [draws, folds, seeds] of linear regressions on a random half of the training data."""
    held_out = np.arange(inputs.shape[-1]) % folds
    errors = np.empty((len(inputs), folds, 2))
    for fold in range(folds):
        for seed in range(2):
            drawn = (random.random(inputs.shape) < 0.5) & (held_out != fold)
            products = (inputs * target * drawn).sum(axis=-1)
            weights = products / ((inputs**2 * drawn).sum(axis=-1) + 1.0)
            missed = (target - weights[:, None] * inputs)[:, held_out == fold]
            errors[:, fold, seed] = (missed**2).mean(axis=-1)
    return errors


@pytest.mark.parametrize("seeds", [3, 5, 6, 10, 20])
@pytest.mark.parametrize("shape", ["normal", "heavy tails", "skewed"])
def test_seeds_without_a_difference(seeds: int, shape: str) -> None:
    """Of 10,000 comparisons of independent seeds without a difference, at most 5 % end with a verdict."""
    random = np.random.default_rng(seeds)
    draw = {
        "normal": lambda size: random.normal(size=size),
        "heavy tails": lambda size: random.standard_t(2, size=size),
        "skewed": lambda size: random.exponential(size=size),
    }[shape]
    assert false_verdicts(draw((DRAWS, seeds)) - draw((DRAWS, seeds)), 0.0) <= MOST_FALSE


@pytest.mark.parametrize("folds", [True, False], ids=["folds", "seeds"])
@pytest.mark.parametrize("effect", [0.5, 1.0, 1.5])
def test_a_difference_is_found(folds: bool, effect: float) -> None:
    """With as many folds or seeds as are said to do, a difference is found in about 80 % of 10,000 draws."""
    n = enough_for(effect, of_folds=folds)
    assert n is not None
    random = np.random.default_rng(n)
    correction = 1 / (n - 1) if folds else 0.0
    # Folds that correlate by 1/k: their standard deviation is that of what is their own
    shared = random.normal(size=(DRAWS, 1)) * np.sqrt(correction)
    differences = effect + shared + random.normal(size=(DRAWS, n))
    assert 0.78 < (t_test(differences, correction)[1] < 0.05).mean() < 0.92


def test_the_tests_of_scipy() -> None:
    """Of seeds alone, the p values and the interval are those of SciPy's own paired tests."""
    left, right = np.random.default_rng(0).normal(size=(2, 8))
    found = compare(*({(0, seed): x for seed, x in enumerate(one)} for one in (left, right)))
    assert found is not None
    student = stats.ttest_rel(right, left)
    low, high = student.confidence_interval(0.95)
    assert found.p == pytest.approx(student.pvalue)
    assert (found.difference - found.margin, found.difference + found.margin) == (
        pytest.approx(low),
        pytest.approx(high),
    )
    assert found.p_ranks == pytest.approx(stats.wilcoxon(right, left).pvalue)


def test_the_correction() -> None:
    """With k folds the error is sqrt(1/k + 1/(k - 1)) standard deviations; seeds are averaged first."""
    changes = np.array([1.0, 2.0, 3.0, 4.0, 6.0])
    left = {(fold, seed): 0.0 for fold in range(5) for seed in range(2)}
    right = {(fold, seed): changes[fold] + (seed - 0.5) for fold, seed in left}
    found = compare(left, right | {(7, 7): 1.0, (0, 0): changes[0] - 0.5}, folds=5)
    assert found is not None
    error = changes.std(ddof=1) * np.sqrt(1 / 5 + 1 / 4)
    assert found.p == pytest.approx(2 * stats.t.sf(changes.mean() / error, 4))
    assert (found.pairs, found.folds, found.n, found.higher, found.lower) == (10, 5, 5, 10, 0)


def verdict(changes: list[float], folds: int = 1, objective: Objective = ACCURACY) -> str:
    """The verdict in words, for these changes of folds or seeds."""
    places = [(at, 0) if folds > 1 else (0, at) for at in range(len(changes))]
    found = compare(dict.fromkeys(places, 0.0), dict(zip(places, changes, strict=True)), folds)
    assert found is not None
    return describe(found, objective, "A", "B")


def test_words() -> None:
    """A verdict says what is better, by how much, in how many pairs; without one, why, and what would do."""
    up = [0.003, 0.004, 0.002, 0.0035, 0.003]
    assert verdict(up, 5).startswith("B is better: +0.0031 ± 0.00")
    assert verdict(up, 5).endswith("val_acc over 5 pairs, 5 of 5, p = 0.003")
    assert verdict(up, 5, LOSS).startswith("A is better: -0.0031 ± ")
    assert verdict([-x for x in up], 5).startswith("A is better: +0.0031 ± ")
    assert verdict([-x for x in up], 5, LOSS).startswith("B is better: -0.0031 ± ")
    assert "5 of 5" in verdict([-x for x in up], 5, LOSS)
    few = verdict([0.001, -0.001, 0.0022, -0.0008, 0.0006])
    assert (
        few == "not told apart: 5 pairs are too few for a difference of 0.0004; about 89 would do"
    )
    assert "5 folds are too few" in verdict([0.001, -0.001, 0.0022, -0.0008, 0.0006], 5)
    assert "it takes more than 1000" in verdict([1.0, -1.0, 1.0, -1.0, 0.001])
    assert verdict([0.1, 0.2]) == "no verdict from 2 pairs (a difference of 0.1500): it takes 3"
    assert verdict([0.0, 0.0, 0.0]) == "no verdict: val_acc is the same in all 3 pairs"
    assert "differs by the same 0.1000" in verdict([0.1, 0.1, 0.1])


def test_both_tests_agree() -> None:
    """From six pairs on the signed ranks have to agree, too."""
    assert verdict([1, 1.1, 1.2, 0.9, 1, 1.1]).startswith("B is better")
    words = verdict([1, 1.1, 1.2, 0.9, 1, -0.1])
    assert words.startswith("not told apart: for a difference of 0.8500 p = 0.007, but by signed")
    assert "p = 0.062; more pairs would tell" in words


def test_what_does_not_count() -> None:
    """Scores without a partner or that are not finite do not count; without any pair there is no answer."""
    scores = {(0, seed): float(seed) for seed in range(4)}
    found = compare(scores, {(0, seed): 2.0 * seed for seed in range(1, 9)} | {(0, 2): np.nan})
    assert found is not None
    assert found.pairs == 2
    assert compare(scores, {(1, 0): 1.0}) is None


def test_diff(clone: Lab, store: Store) -> None:
    """Between two groups, `lab diff` ends with their common pairs and the verdict, and the pooled score."""
    random = np.random.default_rng(0)
    base = {(fold, seed): 0.9 + random.normal() / 100 for fold in range(5) for seed in range(2)}
    add_group(store, "old", base, digest="a" * 32, oof_score=0.91)
    better = {place: value + 0.003 + random.normal() / 2000 for place, value in base.items()}
    add_group(store, "new", better | {(4, 1): None}, digest="a" * 32, oof_score=0.915)
    text = said(clone, "diff", "old", "new", MLFLOW_TRACKING_URI=store.uri, COLUMNS="160")
    last = text.splitlines()[-4:]
    assert re.match(r"new is better: \+0.00\d\d ± 0.00\d+ val_acc over 9 pairs, 9 of 9, p", last[0])
    assert re.match(r"p (=|<) 0.\d+ by the corrected resampled t-test, p = 0.062 by", last[1])
    assert last[2] == "left out: 1 of 10 pairs, not finished in both groups"
    assert last[3] == "oof_score: 0.9100 → 0.9150, +0.0050 (one value each: no test)"
    rows = [line.split() for line in text.splitlines()]
    value = (base[3, 1], better[3, 1])
    assert ["3,", "1", *(f"{one:.4f}" for one in value), f"+{value[1] - value[0]:.4f}"] in rows
    assert sum(row[:1] == ["4,"] for row in rows) == 1


def test_no_verdict(clone: Lab, store: Store) -> None:
    """In one line: single runs, other objectives, other folds or seeds, and other data have no verdict."""
    scores = {(fold, 0): 0.9 + fold / 100 for fold in range(5)}
    add_group(store, "one", scores, digest="a" * 32)
    add_group(store, "loss", scores, "val_loss", "val_loss min")
    add_group(store, "ten", {(fold, 0): 0.9 for fold in range(10)}, folds=10)
    add_group(store, "seed 7", {(fold, 7): 0.9 for fold in range(5)})
    add_group(store, "data", scores, digest="b" * 32)
    store.add("model/one", "alone", {"val_acc": 0.7}, monitor="val_acc max")
    for other, reason in {
        "alone": "it takes two groups (folds=5, seeds=5), and alone is a single run",
        "loss": "one goes by val_acc max, loss by val_loss min",
        "ten": "one and ten have 5 and 10 folds: none is in both",
        "seed 7": "one and seed 7 have no finished member of the same fold and seed",
        "data": "one and data have read different feature/one: their folds are not the same",
    }.items():
        text = said(clone, "diff", "one", other, MLFLOW_TRACKING_URI=store.uri)
        assert text.splitlines()[-1] == f"no verdict: {reason}"
