"""Comparing two groups of runs: whether their scores differ by more than chance.

Scores are compared pair by pair: the same fold and the same seed in both groups.

folds    The corrected resampled t-test. The training sets of k folds overlap, so the scores of folds are not
         independent, and a plain t-test finds differences where there are none. The variance of the mean is
         taken as (1/k + n_test/n_train) s², and n_test/n_train is 1/(k - 1). The seeds of a fold share its
         data; they are averaged first, so that a fold counts once.
         Nadeau and Bengio, Inference for the generalization error, Machine Learning 52 (2003);
         Bouckaert and Frank, Evaluating the replicability of significance tests for comparing learning
         algorithms, PAKDD (2004).
seeds    Student's paired t-test, where only the seeds differ. It speaks of this split of the data alone.
both     Wilcoxon's signed-rank test (Biometrics Bulletin 1, 1945), which no outlier can sway. It takes no
         account of shared training data, so it gives no verdict. It withholds one, as soon as it could
         agree: with six folds or seeds, since with five its smallest p is 0.06.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Scores = Mapping[tuple[int, int], float]  # by fold and seed
Array = NDArray[np.float64]

LEVEL, POWER = 0.05, 0.8
FEWEST = 3  # folds or seeds for a verdict
FEWEST_RANKS = 6  # from here on the signed-rank test can be significant
MOST = 1000  # folds or seeds that are considered for `enough`
NO_SPREAD = 1e-9  # relative: what rounding leaves of equal differences


@dataclass(frozen=True)
class Comparison:
    """How the scores of two groups differ."""

    difference: float  # the mean of right - left
    margin: float  # half of its 95 % interval; NaN without a spread
    pairs: int
    higher: int  # pairs in which right is higher
    lower: int
    folds: int  # that the pairs are of; 1: only their seeds differ
    p: float  # of the t-test; NaN without a spread
    p_ranks: float  # of the signed-rank test
    enough: int | None  # as many folds or seeds would do; None: more than 1000, or unknown

    @property
    def n(self) -> int:
        """The number of folds or seeds: what is counted as independent."""
        return self.folds if self.folds > 1 else self.pairs

    @property
    def is_possible(self) -> bool:
        """Whether there are enough pairs for a verdict, and they have a spread."""
        return self.n >= FEWEST and not math.isnan(self.p)

    @property
    def is_told_apart(self) -> bool:
        """Whether one group is better, at the level of 5 %."""
        return self.is_possible and bool(is_significant(self.p, self.p_ranks, self.n))


def compare(left: Scores, right: Scores, folds: int = 1) -> Comparison | None:
    """Compare the scores of two groups. Scores without a partner, or not finite, do not count.

    Args:
        left: by fold and seed
        right: by fold and seed
        folds: the number of folds of the data

    Returns:
        None if no fold and seed is in both.
    """
    pairs = {
        pair: right[pair] - left[pair]
        for pair in sorted({*left} & {*right})
        if math.isfinite(right[pair] - left[pair])
    }
    if not pairs:
        return None
    values = np.array([*pairs.values()])
    units, correction = _independent(pairs, folds)
    margin, p, p_ranks, enough = _test(units, correction)
    n_folds = len({fold for fold, _ in pairs})
    higher, lower = int((values > 0).sum()), int((values < 0).sum())
    mean = float(units.mean())
    return Comparison(mean, margin, len(pairs), higher, lower, n_folds, p, p_ranks, enough)


def _independent(pairs: Mapping[tuple[int, int], float], folds: int) -> tuple[Array, float]:
    """The mean difference of each fold, and n_test/n_train; of a single fold the differences as they are."""
    by_fold: dict[int, list[float]] = {}
    for (fold, _), difference in pairs.items():
        by_fold.setdefault(fold, []).append(difference)
    if len(by_fold) == 1:
        return np.array([*pairs.values()]), 0.0
    return np.array([np.mean(values) for values in by_fold.values()]), 1 / (folds - 1)


def _test(units: Array, correction: float) -> tuple[float, float, float, int | None]:
    """The margin, both p values, and how many would be enough; NaN and None without a spread."""
    n = len(units)
    if n < 2 or np.ptp(units) <= NO_SPREAD * np.abs(units).max():
        return math.nan, math.nan, math.nan, None
    error, p = t_test(units, correction)
    effect = abs(units.mean()) / units.std(ddof=1)
    enough = enough_for(float(effect), of_folds=correction > 0)
    margin = error * stats.t.isf(LEVEL / 2, n - 1)
    return float(margin), float(p), float(signed_rank_test(units)), enough


def t_test(differences: ArrayLike, correction: float = 0.0) -> tuple[Array, Array]:
    """The t-test of differences [..., n] whose expectation may be zero.

    Args:
        correction: n_test/n_train for folds, 0 for independent differences (Student's test).

    Returns:
        Standard errors of the means, and two-sided p values.
    """
    values = np.asarray(differences, dtype=np.float64)
    n = values.shape[-1]
    error = values.std(axis=-1, ddof=1) * np.sqrt(1 / n + correction)
    return error, 2 * stats.t.sf(np.abs(values.mean(axis=-1)) / error, n - 1)


def signed_rank_test(differences: ArrayLike) -> Array:
    """The two-sided p values of Wilcoxon's signed-rank test of differences [..., n]."""
    return np.asarray(stats.wilcoxon(np.asarray(differences), axis=-1).pvalue)


def is_significant(p: ArrayLike, p_ranks: ArrayLike, n: int) -> NDArray[np.bool_]:
    """Whether the t-test finds a difference, and the signed-rank test agrees if it can."""
    return (np.asarray(p) < LEVEL) & ((n < FEWEST_RANKS) | (np.asarray(p_ranks) < LEVEL))


def enough_for(effect: float, of_folds: bool) -> int | None:
    """How many folds or seeds find a difference with a power of 80 % at the level of 5 %.

    It is the power of the t-test alone, from the noncentral t distribution. The difference that was seen is
    taken for the true one; it is an estimate, and so is the answer.

    Args:
        effect: the mean of the differences, divided by their standard deviation.

    Returns:
        None if it is more than 1000.
    """
    n = np.arange(FEWEST, MOST + 1)
    factor = 1 / n + of_folds / (n - 1)
    power = stats.nct.sf(stats.t.isf(LEVEL / 2, n - 1), n - 1, effect / np.sqrt(factor))
    found = n[power >= POWER]
    return int(found[0]) if len(found) else None
