"""Runs that are equal but for their seed, and what they have in common: mean ± standard deviation."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import mean, stdev

from src.utils.execution.wording import figure
from src.utils.lab.baseline import NOT_COMPARED
from src.utils.store.entry import Entry
from src.utils.store.ledger import artifact


@dataclass(frozen=True)
class Repeats:
    """One setting, tried once or with several seeds."""

    runs: list[Entry]

    @property
    def seeds(self) -> int:
        return len({one.params.get("seed") for one in self.runs})

    def mean(self, metric: str) -> float | None:
        values = self._values(metric)
        return mean(values) if values else None

    def spelled(self, metric: str) -> str:
        """`0.9712 ± 0.0021`, or the value alone where there is only one."""
        values = self._values(metric)
        spread = f" ± {figure(stdev(values))}" if len(values) > 1 else ""
        return f"{figure(mean(values))}{spread}" if values else ""

    def _values(self, metric: str) -> list[float]:
        """One for each seed: the same run twice says nothing new."""
        by_seed = {one.params.get("seed"): one.metrics.get(metric) for one in reversed(self.runs)}
        return [value for value in by_seed.values() if value is not None]


def grouped(entries: Iterable[Entry]) -> list[Repeats]:
    """Together what has the same settings, the same question, the same code and the same data."""
    groups: dict[tuple[str, ...], list[Entry]] = {}
    for one in entries:
        settings = {k: v for k, v in one.params.items() if k not in NOT_COMPARED}
        data = {k: v for k, v in one.tags.items() if k.startswith("data.")}
        key = (one.experiment, one.note, _code(one), repr(sorted(settings.items())), repr(data))
        groups.setdefault(key, []).append(one)
    return [Repeats(runs) for runs in groups.values()]


def _code(one: Entry) -> str:
    source = artifact(one, "source")
    files = sorted(source.rglob("*.py")) if source else []
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()
