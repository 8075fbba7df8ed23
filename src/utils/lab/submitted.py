"""`lab submitted`: the score that a competition gave for a submission, stored with its run."""

import math

from src.utils.errors import UserError
from src.utils.store.mlflow import open_store
from src.utils.store.objective import PRIVATE, PUBLIC
from src.utils.store.record import RunRecord


def store_scores(run: RunRecord, public: float | None, private: float | None) -> dict[str, float]:
    """Store scores as the metrics `public_score` and `private_score`; returns them.

    Raises:
        UserError: no score is given, or one that is not finite.
    """
    given = {PUBLIC: public, PRIVATE: private}
    scores = {name: value for name, value in given.items() if value is not None}
    if not scores or not all(map(math.isfinite, scores.values())):
        raise UserError("lab submitted needs the score: --public 0.91, --private 0.93, or both")
    client = open_store()
    for name, value in scores.items():
        client.log_metric(run.id, name, value)
    return scores


def print_scores(run: RunRecord, scores: dict[str, float]) -> None:
    """Print what was stored."""
    print(f"{run.short} ({run.name}): {', '.join(f'{k} {v:g}' for k, v in scores.items())}")
