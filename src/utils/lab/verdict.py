"""The verdict between two groups: which one is better, in words, and the pairs that it stands on.

The tests are those of `src/utils/statistics.py`. `lab diff` prints the verdict; `lab runs --sort` marks the
groups that can't be told from the best.
"""

from collections.abc import Iterator, Sequence

from src.utils.statistics import FEWEST, Comparison, Scores, compare
from src.utils.store.objective import Objective
from src.utils.store.reader import RunReader
from src.utils.store.record import RunRecord, Value
from src.utils.store.reference import list_members
from src.utils.terminal import format_metric

from rich import box, get_console
from rich.table import Table

MOST_PAIRS = 30  # that are listed
OOF_SCORE = "oof_score"


def print_verdict(reader: RunReader, left: RunRecord, right: RunRecord) -> None:
    """Print the pairs of two groups and the verdict, or in one line why there is none."""
    console = get_console()
    objective, reason = _common_objective(left, right)
    if objective is None:
        console.print(f"no verdict: {reason}", highlight=False)
        return
    known = _member_scores(reader, objective.metric)
    scores = known.get(left.id, {}), known.get(right.id, {})
    comparison, reason = _compare(reader, left, right, scores)
    if comparison is None:
        console.print(f"no verdict: {reason}", highlight=False)
        return
    console.print(_pairs_table(left, right, scores, objective.metric), highlight=False)
    for line in _lines(comparison, objective, left, right):
        console.print(line, highlight=False, soft_wrap=True)


def like_the_best(reader: RunReader, groups: Sequence[RunRecord], metric: str) -> set[str]:
    """The ids of the groups that can't be told from the first, which is the best.

    A group that has no fold and seed in common with it, or other data, is not among them.
    """
    known, found = _member_scores(reader, metric), set()
    for group in groups[1:]:
        scores = known.get(groups[0].id, {}), known.get(group.id, {})
        comparison, _ = _compare(reader, groups[0], group, scores)
        if comparison is not None and not comparison.is_told_apart:
            found.add(group.id)
    return found


def _common_objective(left: RunRecord, right: RunRecord) -> tuple[Objective | None, str]:
    """The objective of both, or why there is none."""
    for run in (left, right):
        if not run.is_group:
            return None, f"it needs two groups (folds=5, seeds=5), and {run.name} is none"
    old, new = Objective.of(left), Objective.of(right)
    if old is None or new is None:
        return None, f"{(right if old else left).name} does not name its objective"
    if old != new:
        return None, f"{left.name} goes by {old.to_tag()}, {right.name} by {new.to_tag()}"
    return new, ""


def _member_scores(reader: RunReader, metric: str) -> dict[str, dict[tuple[int, int], float]]:
    """By group, the metric of its finished members; of a member that was repeated, the newest."""
    groups, values = reader.column("tags", "group.run_id"), reader.column("metrics", metric)
    folds, seeds = reader.column("tags", "group.fold"), reader.column("tags", "group.seed")
    scores: dict[str, dict[tuple[int, int], float]] = {}
    for run in reversed(reader.runs()):
        if run.id in groups and run.id in values and run.status == "FINISHED":
            pair = int(folds.get(run.id, 0)), int(seeds.get(run.id, 0))
            scores.setdefault(str(groups[run.id]), {})[pair] = float(values[run.id])
    return scores


def _compare(
    reader: RunReader, left: RunRecord, right: RunRecord, scores: tuple[Scores, Scores]
) -> tuple[Comparison | None, str]:
    """The comparison of two groups, or why they can't be compared."""
    folds = [int(run.tags.get("group.folds", 1)) for run in (left, right)]
    if folds[0] != folds[1]:
        return None, f"{left.name} has {folds[0]} folds and {right.name} {folds[1]}: no fold is in both"
    comparison = compare(*scores, folds[0])
    if comparison is None:
        return None, f"{left.name} and {right.name} have no fold and seed in common"
    old, new = (_data(reader, run) for run in (left, right))
    changed = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    if changed:
        return None, f"the data of {', '.join(changed)} differ, and with them the folds"
    return comparison, ""


def _data(reader: RunReader, group: RunRecord) -> dict[str, str]:
    """The digests of what the members read: of one, since a member with other data is refused."""
    groups = reader.column("tags", "group.run_id")
    member = next((run for run in reader.runs() if groups.get(run.id) == group.id), group)
    return {one.name: one.digest for one in reader.datasets(member.id) if one.context == "input"}
