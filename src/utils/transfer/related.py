"""Which runs belong together, and so travel together.

trial      the run of its study, and all trials of it
member     its group, and all members of it
any run    those that it names: of its warm start, those of a blend, the one that it continues or repeats
data       the run that made them, and those before it: from them the data can be rebuilt
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from src.utils.store.record import GROUP, PARENT
from src.utils.transfer.portable import PortableRun


def with_related(runs: Sequence[PortableRun], chosen: Iterable[str]) -> list[PortableRun]:
    """The chosen runs and all that belong to them, in the order of `runs`.

    Args:
        runs: all runs of the place.
        chosen: ids.
    """
    known, children = {run.id: run for run in runs}, _children(runs)
    found: set[str] = set()
    waiting = {run_id for run_id in chosen if run_id in known}
    while waiting:
        found |= waiting
        named = {one for run_id in waiting for one in known[run_id].named_runs | children[run_id]}
        waiting = (named & known.keys()) - found
    return [run for run in runs if run.id in found]


def _children(runs: Sequence[PortableRun]) -> defaultdict[str, set[str]]:
    """The trials of each study and the members of each group, by the id of its run."""
    children: defaultdict[str, set[str]] = defaultdict(set)
    for run in runs:
        for tag in (PARENT, GROUP):
            if tag in run.tags:
                children[run.tags[tag]].add(run.id)
    return children
