"""The weights of a blend, found on out-of-fold predictions.

hill-climb   the best run, then again and again the run that improves the mean most: greedy selection with
             replacement, which overfits little (Caruana, Niculescu-Mizil, Crew, Ksikes: «Ensemble selection
             from libraries of models», ICML 2004)
ridge        the least squared error, whatever the metric; a penalty draws the weights to equal ones
mean         all runs alike

Weights are not negative and sum to 1, so that a blend of probabilities is one, and has the target's unit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from src.utils.errors import UserError

import numpy as np

STEPS = 50  # of hill-climb, at most
PATIENCE = 10  # steps without an improvement, after which it ends
FOLDS = 5  # where the predictions do not say the fold of their rows


@dataclass(frozen=True)
class Metric:
    """The metric of a competition: a program's function `score(target, prediction)`."""

    score: Callable[[np.ndarray, np.ndarray], float]
    maximize: bool

    def loss(self, target: np.ndarray, prediction: np.ndarray) -> float:
        """The score, or its negative, so that less is better.

        Raises:
            UserError: the function fails, or does not return a finite number.
        """
        try:
            value = float(self.score(target, prediction))
        except Exception as error:  # whatever the user's own code raises
            shapes = f"target {list(target.shape)} and prediction {list(prediction.shape)}"
            raise UserError(
                f"score(target, prediction) failed with {shapes}: {type(error).__name__}: {error}"
            ) from None
        if not np.isfinite(value):
            raise UserError(f"score(target, prediction) returned {value}: it should be finite")
        return -value if self.maximize else value


@dataclass(frozen=True)
class Rows:
    """The out-of-fold predictions of M runs."""

    target: np.ndarray  # [N] or [N, …]
    stack: np.ndarray  # predictions, [M, N] or [M, N, K]
    classes: Sequence[str]  # names of the K columns

    def at(self, rows: np.ndarray) -> "Rows":
        """Some of the rows."""
        return Rows(self.target[rows], self.stack[:, rows], self.classes)

    def without(self, run: int) -> "Rows":
        """The predictions of all runs but one."""
        return Rows(self.target, np.delete(self.stack, run, axis=0), self.classes)

    def blended(self, weights: np.ndarray) -> np.ndarray:
        """The weighted mean of the predictions, [N] or [N, K]."""
        return np.asarray(np.tensordot(weights, self.stack, axes=1))

    def numeric_target(self) -> np.ndarray:
        """The target in the shape of a prediction: of K classes one column each, of zeros and ones.

        Raises:
            UserError: the target is no number, and none of the classes.
        """
        if self.target.shape == self.stack.shape[1:] and self.target.dtype.kind in "biuf":
            return self.target.astype(np.float64)
        labels = self.target.astype(str)
        if labels.ndim == 1 and {*np.unique(labels)} <= {*self.classes}:
            return np.asarray(labels[:, None] == np.array(self.classes), dtype=np.float64)
        raise UserError(
            "ridge needs a target of numbers, or of classes that the columns of the predictions are named "
            "after: use --method hill-climb"
        )


def hill_climb(rows: Rows, metric: Metric) -> np.ndarray:
    """Add the run that improves the mean most, up to 50 times; the best mean on the way counts."""
    counts, total = np.zeros(len(rows.stack)), np.zeros_like(rows.stack[0])
    best, best_counts = np.inf, counts
    for step in range(1, STEPS + 1):
        losses = [metric.loss(rows.target, (total + one) / step) for one in rows.stack]
        chosen = int(np.argmin(losses))
        counts[chosen] += 1
        total += rows.stack[chosen]
        if losses[chosen] < best:
            best, best_counts = losses[chosen], counts.copy()
        elif step - best_counts.sum() >= PATIENCE:
            break
    return np.asarray(best_counts / best_counts.sum())


def ridge(rows: Rows, metric: Metric) -> np.ndarray:
    """Minimize the squared error of the blend, with one weight for all columns of a run.

    With the errors e of the runs, |Σ w e|² + |w|² is minimized where w ≥ 0 and Σ w = 1. This is a problem of
    non-negative least squares if Σ w = 1 is one of its equations, and the solution is divided by its sum.

    Raises:
        UserError: the target is no number, and none of the classes.
    """
    from scipy.optimize import nnls  # late: see `src/utils/lab/cli.py`

    target = rows.numeric_target()
    errors = (rows.stack - target).reshape(len(rows.stack), -1) / (target.std() or 1.0)
    products = errors @ errors.T + np.eye(len(errors))
    root = np.linalg.cholesky(products / products.trace()).T
    equations = np.vstack([root, np.ones(len(errors))])
    weights, _ = nnls(equations, np.append(np.zeros(len(errors)), 1.0))
    return np.asarray(weights / weights.sum())


def mean(rows: Rows, metric: Metric) -> np.ndarray:
    """The same weight for all runs."""
    return np.full(len(rows.stack), 1 / len(rows.stack))


METHODS = {"hill-climb": hill_climb, "ridge": ridge, "mean": mean}


def cross_validate(method: str, rows: Rows, metric: Metric, folds: np.ndarray) -> np.ndarray:
    """The blend of the rows of each fold, with weights that were found on all other rows."""
    blended: np.ndarray = np.empty_like(rows.stack[0])
    for fold in np.unique(folds):
        held_out = folds == fold
        weights = METHODS[method](rows.at(~held_out), metric)
        blended[held_out] = rows.at(held_out).blended(weights)
    return blended


def random_folds(count: int) -> np.ndarray:
    """Folds of equal size, for N rows; always the same ones."""
    return np.asarray(np.random.default_rng(0).permutation(count) % min(FOLDS, count))
