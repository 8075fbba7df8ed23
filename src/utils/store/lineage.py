"""Where a run's data came from: the runs that made them, back to the first."""

from collections.abc import Iterator
from dataclasses import dataclass

from src.utils.store.entry import Used
from src.utils.store.ledger import Ledger


@dataclass(frozen=True)
class Ancestor:
    """Data that were read, how far back, and whether the run that made them is still known."""

    used: Used
    depth: int
    known: bool


def ancestors(ledger: Ledger, run_id: str) -> list[Ancestor]:
    """What a run read, and what was read to make that, the nearest first."""
    known = {entry.id for entry in ledger.headers()}
    return list(_back(ledger, run_id, 0, known))


def _back(ledger: Ledger, run_id: str, depth: int, known: set[str]) -> Iterator[Ancestor]:
    for used in ledger.inputs(run_id):
        if used.context == "input" and depth < 10:  # no honest lineage is longer
            yield Ancestor(used, depth, used.run_id in known)
            yield from _back(ledger, used.run_id, depth + 1, known)


def digests(ledger: Ledger, run_id: str) -> dict[str, str]:
    """The digest of everything a run read or wrote, and of what that was made from, by name."""
    own = {one.name: one.digest for one in ledger.inputs(run_id)}
    return {one.used.name: one.used.digest for one in ancestors(ledger, run_id)} | own
