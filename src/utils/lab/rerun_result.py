"""What `lab rerun` comes to: old and new metrics, whether weights and data are the same, and the verdict."""

import math
from dataclasses import dataclass, field

from src.utils.store.objective import PRIVATE, PUBLIC, is_resource

from mlflow.entities import Run as StoredRun
from rich import get_console
from rich.table import Table


@dataclass(frozen=True)
class RerunResult:
    """A run and its rerun."""

    old: StoredRun
    new: StoredRun
    # Whether the weights are the same, by the place of a member, "" for a run that is no group; None where
    # there are none
    weights: dict[str, bool | None]
    tolerance: float  # of each metric, relative
    # The digests of what a stage makes, then and now
    data: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    with_packages: bool = False  # whether it ran with the packages of then
    packages: dict[str, tuple[str, str]] = field(default_factory=dict)  # that are others today

    @property
    def same_data(self) -> bool | None:
        """Whether the data that were made have the same content; None for a run that makes none."""
        return all(then == now for then, now in self.data.values()) if self.data else None

    @property
    def same_weights(self) -> bool | None:
        """Whether all weights are the same; None if there are none to compare."""
        known = [same for same in self.weights.values() if same is not None]
        return all(known) if known else None

    @property
    def metrics(self) -> dict[str, tuple[float, float | None]]:
        """The old and the new value of each metric, without timings and what a competition said."""
        old, new = self.old.data.metrics, self.new.data.metrics
        names = sorted(name for name in old if not (is_resource(name) or name in (PUBLIC, PRIVATE)))
        return {name: (old[name], new.get(name)) for name in names}

    @property
    def verdict(self) -> str:
        """`identical` (bit-identical), `within tolerance` or `different`."""
        pairs = self.metrics.values()
        if self.same_data is False:  # there is no tolerance for them
            return "different"
        if all(_is_same(old, new) for old, new in pairs) and self.same_weights is not False:
            return "identical"
        within = (
            _is_same(old, new) or (new is not None and abs(new - old) <= self.tolerance * abs(old))
            for old, new in pairs
        )
        return "within tolerance" if all(within) else "different"

    def as_dict(self) -> dict[str, object]:
        """The result as `lab rerun --json` prints it."""
        metrics = {name: {"then": then, "now": now} for name, (then, now) in self.metrics.items()}
        return {
            "run": self.old.info.run_id,
            "rerun": self.new.info.run_id,
            "verdict": self.verdict,
            "tolerance": self.tolerance,
            "metrics": metrics,
            "same_weights": self.same_weights,
            "same_data": self.same_data,
            "packages": "then" if self.with_packages else "today",
            "packages_differ": {
                name: {"then": then or None, "now": now or None}
                for name, (then, now) in self.packages.items()
            },
            "members": {place: same for place, same in self.weights.items() if place},
        }


def _is_same(old: float, new: float | None) -> bool:
    return old == new or (new is not None and math.isnan(old) and math.isnan(new))


def print_result(result: RerunResult) -> None:
    """Print old and new metrics side by side, and the verdict."""
    old, new = result.old.info, result.new.info
    table = Table("metric", f"then ({old.run_id[:8]})", f"now ({new.run_id[:8]})", "difference")
    for name, (then, now) in result.metrics.items():
        change = "" if now is None else "0" if now == then else f"{now - then:+.2e}"
        table.add_row(name, f"{then:.6g}", "" if now is None else f"{now:.6g}", change)
    if result.metrics:
        get_console().print(table)
    for line in _data_in_words(result) or [f"weights: {_weights_in_words(result)}"]:
        get_console().print(line, highlight=False)
    verdict = f"verdict: [bold]{result.verdict}[/], with {_packages_in_words(result)}"
    get_console().print(verdict, highlight=False)


def _packages_in_words(result: RerunResult) -> str:
    if result.with_packages:
        return "the packages of then"
    number = len(result.packages)
    differ = f" ({number} {'differs' if number == 1 else 'differ'})"
    return f"today's packages{differ}" if number else "the same packages"


def _data_in_words(result: RerunResult) -> list[str]:
    """A line for each output of a stage."""
    pairs = result.data.values()
    return [
        "data: bit-identical" if then == now else f"data: {then[:8]} then, {str(now)[:8]} now"
        for then, now in pairs
    ]


def _weights_in_words(result: RerunResult) -> str:
    words = {True: "bit-identical", False: "different", None: "none saved"}[result.same_weights]
    if "" in result.weights:
        return words
    differing = [place for place, same in result.weights.items() if same is False]
    among = f" ({', '.join(differing)})" if differing else ""
    return f"{words} in {len(differing) or len(result.weights)} of {len(result.weights)} members{among}"
