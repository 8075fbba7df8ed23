"""What makes one run better than another: a metric, and which way it is good."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from src.utils.store.reader import RunRecord

LOWER = re.compile(r"loss|err|mae|mse|nll|perplexity|ppl|latency|seconds|bytes", re.IGNORECASE)
SHOWN = ("val_acc", "val_loss", "test_acc", "test_loss", "train_acc", "train_loss")
TIMINGS = (
    "system/",
    "epoch_seconds",
    "samples_per_second",
    "batches_per_second",
)  # metrics that no two runs share
NOT_RESULTS = (*TIMINGS, "epoch", "lr", "train_loss_step")


@dataclass(frozen=True)
class Objective:
    """`val_acc`, the higher the better."""

    metric: str
    maximize: bool

    @classmethod
    def of(cls, metric: str) -> "Objective":
        """A metric by its name alone: losses and errors are better when they are lower."""
        return cls(metric, not LOWER.search(metric))

    @classmethod
    def told(cls, one: RunRecord) -> "Objective | None":
        """What a run says that it is after: its tag `monitor`, «val_acc max»."""
        metric, _, mode = one.tags.get("monitor", "").rpartition(" ")
        return cls(metric, mode == "max") if metric else None

    @property
    def partners(self) -> list[str]:
        """The metric itself, and then the same one on the test data."""
        return list(dict.fromkeys([self.metric, self.metric.replace("val_", "test_")]))

    def rank(self, value: float | str | None) -> float:
        """Sorts the best first, and what has no value last."""
        if not isinstance(value, int | float) or math.isnan(value):
            return math.inf
        return -value if self.maximize else value

    def best(self, records: Iterable[RunRecord]) -> RunRecord | None:
        """The best of the finished runs that are after the same; studies and pruned trials are none."""
        ranked = [one for one in records if one.state == "finished" and not one.is_study]
        ranked = [one for one in ranked if Objective.told(one) in (None, self)]
        ranked = [one for one in ranked if math.isfinite(self.rank(one.metrics.get(self.metric)))]
        return min(ranked, key=lambda one: self.rank(one.metrics[self.metric]), default=None)


def find_objective(records: Sequence[RunRecord]) -> Objective | None:
    """What these runs were after: what the newest of them that says so says, or the metric that is most
    likely meant. What a study says of its trials is no metric of a run."""
    told = next((aim for one in records if (aim := Objective.told(one))), None)
    runs = [one for one in records if not one.is_study]
    names = sorted({name for one in runs for name in results(one.metrics)}, key=likely)
    return told or (Objective.of(names[0]) if names else None)


def results(metrics: Iterable[str]) -> list[str]:
    """The names of the metrics that say something about the model, as a person wants them listed."""
    return sorted((name for name in metrics if not name.startswith(NOT_RESULTS)), key=likely)


def likely(name: str) -> tuple[int, bool, str]:
    """The usual ones first, then what was validated, then the rest."""
    place = SHOWN.index(name) if name in SHOWN else len(SHOWN)
    return place, not name.startswith("val"), name
