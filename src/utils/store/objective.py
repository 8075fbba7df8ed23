"""The objective of runs: the metric by which they are ranked, and its direction.

A run names its objective in the tag `monitor`: `val_acc max`. `run.objective` sets the tag; `tracked_trainer`
calls it with the settings `monitor` and `mode`. Where nothing has, `src/utils/runs/execute.py` sets it.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from src.utils.store.record import RunRecord

MONITOR = "monitor"  # the tag: "<metric> <mode>"; the name of a metric may hold spaces
OBJECTIVE = "objective"  # the metric that holds what `main` returned, where no other one does
LOWER_IS_BETTER = re.compile(
    r"loss|err|mae|mse|nll|perplexity|ppl|latency|seconds|bytes", re.IGNORECASE
)
COMMON_METRICS = ("val_acc", "val_loss", "test_acc", "test_loss", "train_acc", "train_loss")
# Metrics of `score(target, prediction)`: out of fold, and as a competition gives them; better where the
# objective is
OOF_SCORE, PUBLIC, PRIVATE = SCORES = ("oof_score", "public_score", "private_score")
# Prefixes of metrics of time and hardware, in which any two runs differ
RESOURCE_METRICS = ("system/", "epoch_seconds", "samples_per_second", "batches_per_second")
SPREAD = "_sd"  # after the name of a metric: the standard deviation among the members of a group
NOT_RESULTS = (*RESOURCE_METRICS, "epoch", "lr", "train_loss_step")  # prefixes, too
# The same of a part of a run: fold0/epoch
OF_PART = re.compile(rf".*/({'|'.join(NOT_RESULTS)})(/\d+)?")
RESOURCE_OF_PART = re.compile(rf".*/({'|'.join(RESOURCE_METRICS)})")


@dataclass(frozen=True)
class Objective:
    """A metric and its direction."""

    metric: str
    maximize: bool

    @classmethod
    def from_name(cls, metric: str) -> "Objective":
        """Guess the direction from the metric's name: losses and errors are minimized."""
        return cls(metric, not LOWER_IS_BETTER.search(metric))

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> "Objective | None":
        """The objective in the tag `monitor`, as `to_tag` writes it; None without the tag."""
        metric, _, mode = tags.get(MONITOR, "").rpartition(" ")
        return cls(metric, mode == "max") if metric else None

    def to_tag(self) -> str:
        """The value of the tag `monitor`."""
        return f"{self.metric} {self.mode}"

    @property
    def mode(self) -> Literal["min", "max"]:
        """The direction, as the setting `mode` has it."""
        return "max" if self.maximize else "min"

    @classmethod
    def of(cls, record: RunRecord) -> "Objective | None":
        """The objective of a run, by the name under which its metric is stored; None without the tag."""
        found = cls.from_tags(record.tags)
        return found and found.stored_in(record.metrics)

    def stored_in(self, metrics: Mapping[str, float]) -> "Objective":
        """The objective by the name that its metric has among the metrics of a run."""
        by_epoch = f"{self.metric}_epoch"  # as Lightning stores what is logged on_step and on_epoch
        is_by_epoch = self.metric not in metrics and by_epoch in metrics
        return Objective(by_epoch, self.maximize) if is_by_epoch else self

    @property
    def metrics(self) -> list[str]:
        """The metric, and the same metric on the test data."""
        return list(dict.fromkeys([self.metric, self.metric.replace("val_", "test_")]))

    def sort_key(self, value: float | str | None) -> float:
        """A key that sorts the best value first, and a missing value or NaN last."""
        if not isinstance(value, int | float) or math.isnan(value):
            return math.inf
        return -value if self.maximize else value

    def best_run(self, records: Iterable[RunRecord]) -> RunRecord | None:
        """The best of the finished runs with this objective or none; no study and no pruned trial."""
        ranked = [
            record
            for record in records
            if record.state == "finished"
            and not record.is_study
            and Objective.of(record) in (None, self)
            and math.isfinite(self._sort_key_of(record))
        ]
        return min(ranked, key=self._sort_key_of, default=None)

    def _sort_key_of(self, record: RunRecord) -> float:
        return self.sort_key(record.metrics.get(self.metric))


def find_objective(records: Sequence[RunRecord]) -> Objective | None:
    """The objective of some runs.

    It is the tag `monitor` of the newest run that has logged the metric. If none has, it is the tag of the
    newest run that has one. Without any tag it is the first result metric, with a guessed direction.

    Args:
        records: runs with their params, metrics and tags, the newest first.
    """
    tagged = [(record, found) for record in records if (found := Objective.of(record))]
    logged = [found for record, found in tagged if found.metric in record.metrics]
    if tagged:
        return logged[0] if logged else tagged[0][1]
    runs = [record for record in records if not record.is_study]  # a study's metrics are its own
    names = result_metrics({name for record in runs for name in record.metrics})
    return Objective.from_name(names[0]) if names else None


def list_objectives(records: Sequence[RunRecord]) -> list[Objective]:
    """The objectives of the experiments of some runs; that of the newest run comes first."""
    by_experiment: dict[str, list[RunRecord]] = {}
    for record in records:
        by_experiment.setdefault(record.experiment, []).append(record)
    return [found for runs in by_experiment.values() if (found := find_objective(runs))]


def is_resource(metric: str) -> bool:
    """Whether a metric is of time or hardware, of a run or of a part of one."""
    return metric.startswith(RESOURCE_METRICS) or bool(RESOURCE_OF_PART.fullmatch(metric))


def objective_by(metric: str, records: Sequence[RunRecord]) -> Objective:
    """A metric by which runs are sorted, with its direction.

    It is the direction of the newest run whose objective the metric is; of a score, of the newest objective.
    Else it is guessed from the name.
    """
    tagged = [found for record in records if (found := Objective.of(record))]
    known = [one for one in tagged if one.metric == metric or metric in SCORES]
    return Objective(metric, known[0].maximize) if known else Objective.from_name(metric)


def result_metrics(metrics: Iterable[str]) -> list[str]:
    """The names of the metrics that measure the model, in the order in which they are displayed."""
    known = set(metrics)
    results = (
        name
        for name in without_spreads(known)
        if not (name.startswith(NOT_RESULTS) or OF_PART.fullmatch(name))
    )
    return sorted(results, key=display_order)


def without_spreads(metrics: set[str]) -> set[str]:
    """The names of metrics, without those that are standard deviations of others."""
    return {
        name
        for name in metrics
        if not (name.endswith(SPREAD) and name.removesuffix(SPREAD) in metrics)
    }


def display_order(metric: str) -> tuple[int, bool, str]:
    """A sort key: common metrics first, then those of the validation, then the others."""
    known = metric in COMMON_METRICS
    position = COMMON_METRICS.index(metric) if known else len(COMMON_METRICS)
    return position, not metric.startswith("val"), metric
