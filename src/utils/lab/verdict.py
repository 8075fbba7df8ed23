"""The verdict between two groups: which one is better, in words, and the pairs that it stands on.

The tests are those of `src/utils/statistics.py`. `lab diff` prints the verdict; `lab runs --sort` marks the
groups that can't be told from the best.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from src.utils.statistics import FEWEST, FEWEST_RANKS, LEVEL, MOST, Comparison, compare
from src.utils.store.objective import OOF_SCORE, Objective
from src.utils.store.reader import RunReader
from src.utils.store.record import FOLD, FOLDS, GROUP, SEED, RunRecord
from src.utils.terminal import format_metric

from rich import box, get_console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

MOST_PAIRS = 30  # that are listed


@dataclass(frozen=True)
class GroupScores:
    """The scores of a group's members."""

    group: RunRecord
    scores: dict[tuple[int, int], float]  # by fold and seed
    member: str  # the id of one of them: all read the same data, since others are refused

    @property
    def folds(self) -> int:
        return int(self.group.tags.get(FOLDS, 1))


def print_verdict(reader: RunReader, left: RunRecord, right: RunRecord) -> None:
    """Print the pairs of two groups and the verdict, or in one line why there is none."""
    console = get_console()
    objective, reason = _common_objective(left, right)
    if objective is not None:
        old, new = _read_scores(reader, [left, right], objective.metric)
        found, reason = _compare(reader, old, new)
        if found is not None:
            console.print(_pairs_table(old, new, objective.metric), highlight=False)
            for line in _lines(found, objective, left, right):
                console.print(line, highlight=False, soft_wrap=True)
            return
    console.print(escape(f"no verdict: {reason}"), highlight=False, soft_wrap=True)


def verdict_lines(reader: RunReader, left: RunRecord, right: RunRecord) -> list[str]:
    """The verdict of two groups and what it is based on; or in one line why there is none."""
    objective, reason = _common_objective(left, right)
    if objective is not None:
        found, reason = _compare(reader, *_read_scores(reader, [left, right], objective.metric))
        if found is not None:
            lines = _lines(found, objective, left, right)
            return [Text.from_markup(line).plain for line in lines]
    return [f"no verdict: {reason}"]


def verdict_as_dict(reader: RunReader, left: RunRecord, right: RunRecord) -> dict[str, object]:
    """The verdict as `lab diff --json` prints it: `better` is a run id, None where there is no verdict."""
    objective, reason = _common_objective(left, right)
    if objective is None:
        return {"better": None, "text": reason}
    found, reason = _compare(reader, *_read_scores(reader, [left, right], objective.metric))
    if found is None:
        return {"better": None, "text": reason}
    better = right if (found.difference > 0) == objective.maximize else left
    return {
        "better": better.id if found.is_told_apart else None,
        "text": describe(found, objective, left.name, right.name),
        "metric": objective.metric,
        "maximize": objective.maximize,
        **{
            name: getattr(found, name) for name in ("difference", "margin", "pairs", "p", "p_ranks")
        },
    }


def like_the_first(reader: RunReader, groups: Sequence[RunRecord], metric: str) -> set[str]:
    """The ids of the groups that can't be told from the first one.

    A group that has no fold and seed in common with it, or other data, is not among them. Each has a test of
    its own: where twenty groups are alike, one of them is told apart by chance.
    """
    first, *others = _read_scores(reader, groups, metric)
    compared = {other.group.id: _compare(reader, first, other)[0] for other in others}
    return {run_id for run_id, found in compared.items() if found and not found.is_told_apart}


def _common_objective(left: RunRecord, right: RunRecord) -> tuple[Objective | None, str]:
    """The objective of both, or why there is none."""
    for run in (left, right):
        if not run.is_group:
            return None, f"it takes two groups (folds=5, seeds=5), and {run.name} is a single run"
    old, new = Objective.of(left), Objective.of(right)
    if old is None or new is None:
        return None, f"{(right if old else left).name} does not name its objective"
    if old != new:
        return None, f"{left.name} goes by {old.to_tag()}, {right.name} by {new.to_tag()}"
    return new, ""


def _read_scores(
    reader: RunReader, groups: Sequence[RunRecord], metric: str
) -> Iterator[GroupScores]:
    """The metric of the finished members of each group; of a member that was repeated, the newest."""
    members, values = reader.column("tags", GROUP), reader.column("metrics", metric)
    folds, seeds = reader.column("tags", FOLD), reader.column("tags", SEED)
    found = {group.id: GroupScores(group, {}, group.id) for group in groups}
    for run in reversed(reader.runs()):
        group = found.get(str(members.get(run.id)))
        if group is not None and run.id in values and run.status == "FINISHED":
            place = int(folds.get(run.id, 0)), int(seeds.get(run.id, 0))
            group.scores[place] = float(values[run.id])
            found[group.group.id] = replace(group, member=run.id)
    yield from (found[group.id] for group in groups)


def _compare(
    reader: RunReader, left: GroupScores, right: GroupScores
) -> tuple[Comparison | None, str]:
    """The comparison of two groups, or why they can't be compared."""
    names = f"{left.group.name} and {right.group.name}"
    if left.folds != right.folds:
        return None, f"{names} have {left.folds} and {right.folds} folds: none is in both"
    found = compare(left.scores, right.scores, left.folds)
    if found is None:
        return None, f"{names} have no finished member of the same fold and seed"
    old, new = (_data(reader, one.member) for one in (left, right))
    changed = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    if changed:
        data = ", ".join(changed)
        return None, f"{names} have read different {data}: their folds are not the same"
    return found, ""


def _data(reader: RunReader, run_id: str) -> dict[str, str]:
    """The digests of what a run has read, by name."""
    return {one.name: one.digest for one in reader.datasets(run_id) if one.context == "input"}


def _pairs_table(left: GroupScores, right: GroupScores, metric: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(f"{escape(metric)}\nfold, seed", no_wrap=True)
    for run in (left.group, right.group):
        table.add_column(escape(f"{run.name}\n{run.short}"), justify="right")
    table.add_column("change", justify="right", no_wrap=True)
    pairs = sorted({*left.scores} & {*right.scores})
    for pair in pairs[:MOST_PAIRS]:
        old, new = left.scores[pair], right.scores[pair]
        cells = (format_metric(old), format_metric(new), _signed(new - old))
        table.add_row(f"{pair[0]}, {pair[1]}", *cells)
    if len(pairs) > MOST_PAIRS:
        table.add_row(f"… and {len(pairs) - MOST_PAIRS} more")
    return table


def _lines(
    found: Comparison, objective: Objective, left: RunRecord, right: RunRecord
) -> Iterator[str]:
    """The verdict, what it is based on, and the change of the pooled score."""
    names = [left.name, right.name]
    if left.name == right.name:
        names = [f"{run.name} ({run.short})" for run in (left, right)]
    yield f"[bold]{escape(describe(found, objective, *names))}[/]"
    if found.is_possible:
        test = "corrected resampled t-test" if found.folds > 1 else "paired t-test of one split"
        least = 2 ** (1 - found.n)  # of all pairs with the same sign
        ranks = f" ({least:.3f} at best of {found.n})" if found.n < FEWEST_RANKS else ""
        ranks = f"{_p(found.p_ranks)} by signed ranks{ranks}"
        yield f"[dim]{_p(found.p)} by the {test}, {ranks}; ±: 95 % interval[/]"
    total = max(left.size, right.size)
    if found.pairs < total:
        yield f"left out: {total - found.pairs} of {total} pairs, not finished in both groups"
    old, new = (run.metrics.get(OOF_SCORE) for run in (left, right))
    if found.folds > 1 and old is not None and new is not None:
        change = f"{format_metric(old)} → {format_metric(new)}, {_signed(new - old)}"
        yield f"{OOF_SCORE}: {change} (one value each: no test)"


def describe(found: Comparison, objective: Objective, left: str, right: str) -> str:
    """The verdict in words.

    Args:
        left: the name of the first group
        right: the name of the second group
    """
    if found.is_told_apart:
        return _better(found, objective, left, right)
    size, unit = format_metric(abs(found.difference)), "folds" if found.folds > 1 else "pairs"
    if found.n < FEWEST:
        return f"no verdict from {found.n} {unit} (a difference of {size}): it takes {FEWEST}"
    if not found.is_possible:
        change = f"differs by the same {size}" if found.difference else "is the same"
        return f"no verdict: {objective.metric} {change} in all {found.pairs} pairs"
    if found.p < LEVEL:
        ranks = f"{_p(found.p)}, but by signed ranks {_p(found.p_ranks)}"
        return f"not told apart: for a difference of {size} {ranks}; more {unit} would tell"
    enough = f"about {found.enough} would do" if found.enough else f"it takes more than {MOST}"
    return f"not told apart: {found.n} {unit} are too few for a difference of {size}; {enough}"


def _better(found: Comparison, objective: Objective, left: str, right: str) -> str:
    names, wins = (left, right), (found.lower, found.higher)
    is_right = (found.difference > 0) == objective.maximize
    change = found.difference if is_right else -found.difference
    won = wins[is_right == objective.maximize]
    return (
        f"{names[is_right]} is better: {_signed(change)} ± {format_metric(found.margin)} "
        f"{objective.metric} over {found.pairs} pairs, {won} of {found.pairs}, {_p(found.p)}"
    )


def _signed(change: float) -> str:
    return f"{'-' if change < 0 else '+'}{format_metric(abs(change))}"


def _p(value: float) -> str:
    if value < 0.001:
        return "p < 0.001"
    return f"p = {value:.3f}" if value < 0.1 else f"p = {value:.2f}"
