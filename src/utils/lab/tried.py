"""`lab tried`: whether settings have been tried and how it went; if not, the nearest that have.

The conditions are those of `lab runs --where`, of settings alone. A trial counts like any run, and a group
counts once. How near a run is, is the sum over the conditions that it doesn't meet: of positive numbers the
distance on a log scale, where a factor of ten is 1; another text is 1, too.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from src.utils.errors import UserError
from src.utils.lab.filter import Filter, to_number, to_value
from src.utils.lab.runs import Query, Selection, as_dicts, format_result, print_runs
from src.utils.lab.show import failure_reason
from src.utils.store.objective import Objective, find_objective
from src.utils.store.reader import RunReader
from src.utils.store.record import RunRecord, Value
from src.utils.store.reference import RECENT_RUNS, list_model_runs, list_runs, without_members
from src.utils.terminal import format_settings

from rich import box, get_console
from rich.markup import escape
from rich.table import Table

STATES = ("finished", "running", "pruned", "killed", "failed")  # the order in which runs are listed
MOST_NEAREST = 5
MOST_REASONS, REASON_LENGTH = 10, 60  # that are read, and characters that are printed


@dataclass(frozen=True)
class Tries:
    """Runs of one experiment."""

    records: list[RunRecord]  # the best first
    objective: Objective | None

    @classmethod
    def of(cls, records: list[RunRecord]) -> "Tries":
        """Rank runs by their objective, those that haven't finished last."""
        objective = find_objective(records)

        def rank(run: RunRecord) -> tuple[int, float]:
            value = run.metrics.get(objective.metric) if objective else None
            place = STATES.index(run.state) if run.state in STATES else len(STATES)
            return place, objective.sort_key(value) if objective else 0.0

        return cls(sorted(records, key=rank), objective)

    @property
    def experiment(self) -> str:
        return self.records[0].experiment

    @property
    def best(self) -> RunRecord | None:
        return self.objective.best_run(self.records) if self.objective else None

    @property
    def states(self) -> dict[str, int]:
        """How many runs are in which state."""
        return dict(Counter(run.state for run in self.records))

    def in_words(self) -> str:
        """`best val_acc 0.9812 (a1b2c3d4), 1 pruned, 1 failed: out of memory`"""
        return ", ".join(self._parts())

    def _parts(self) -> Iterator[str]:
        states, best = self.states, self.best
        if best and self.objective:
            word = "best " if states["finished"] > 1 else ""
            metric = self.objective.metric
            yield f"{word}{metric} {format_result(best, metric)} ({best.short})"
        elif "finished" in states:
            yield f"{states['finished']} finished"
        for state, count in states.items():
            if state != "finished":
                number = f"{count} " if len(self.records) > 1 else ""
                yield f"{number}{state}{self._reason(state)}"

    def _reason(self, state: str) -> str:
        """The most common reason of the first runs."""
        runs = [run for run in self.records if run.state == state]
        ((reason, _),) = Counter(map(failure_reason, runs[:MOST_REASONS])).most_common(1)
        short = reason if len(reason) <= REASON_LENGTH else f"{reason[: REASON_LENGTH - 1]}…"
        return f": {short}" if short else ""

    def as_dict(self) -> dict[str, object]:
        """The numbers, as `lab tried --json` prints them."""
        best = self.best
        metric = self.objective.metric if self.objective else None
        return {
            "experiment": self.experiment,
            "runs": len(self.records),
            "states": self.states,
            "metric": metric,
            "best": best.metrics.get(str(metric)) if best else None,
            "best_run": best.id if best else None,
        }


@dataclass(frozen=True)
class Near:
    """Runs of one experiment that are equal in the settings that were asked for, but not as asked for."""

    tries: Tries
    distance: float
    differs: dict[str, str]  # the settings that are other than asked for


@dataclass(frozen=True)
class Answer:
    """What has been tried, by experiment; if nothing has, what is nearest."""

    tried: list[Tries]
    nearest: list[Near]
    hides_members: bool


def find_tries(
    reader: RunReader, conditions: Sequence[str], experiment: str | None = None
) -> Answer:
    """Find the runs that meet all conditions, or else the nearest.

    Args:
        conditions: as in `lab runs --where`
        experiment: an experiment or stage; None means all models.

    Raises:
        UserError: a condition cannot be parsed, or names no setting; no run is of such an experiment.
    """
    asked = [_parse(text) for text in conditions]
    found = list_runs(reader, experiment) if experiment else list_model_runs(reader)
    lists_members = any(one.selects_members for one in asked)
    records = _without_studies(reader, found if lists_members else without_members(reader, found))
    columns = {one.name: _column(reader, records, one.name) for one in asked}
    values = {
        run.id: {name: column[run.id] for name, column in columns.items()}
        for run in records
        if all(run.id in column for column in columns.values())
    }
    known = [run for run in records if run.id in values]
    exact = [run for run in known if not _unmet(asked, values[run.id])]
    return Answer(
        [Tries.of(reader.with_values(runs)) for runs in _by_experiment(exact).values()],
        [] if exact else _nearest(reader, known, asked, values),
        hides_members=len(records) < len(found) and not lists_members,
    )


def _parse(text: str) -> Filter:
    condition = Filter.parse(text)
    if not condition.operator:
        raise UserError(
            f"{text} is no condition: write {text}=0.01, or a range in quotes, '{text}>0.01'"
        )
    return condition


def _without_studies(reader: RunReader, records: list[RunRecord]) -> list[RunRecord]:
    of_study, trials = reader.column("tags", "optuna.study"), reader.column("tags", "optuna.trial")
    return [run for run in records if run.id not in of_study or run.id in trials]


def _column(reader: RunReader, records: list[RunRecord], name: str) -> dict[str, str]:
    """The setting of each run; UserError if none has it."""
    column = reader.column("params", name)
    values = {run.id: str(column[run.id]) for run in records if run.id in column}
    if values:
        return values
    if reader.column("metrics", name):
        raise UserError(
            f"{name} is a metric, not a setting: lab runs --where '{name}>…' asks for it"
        )
    recent = reader.with_values(records[:RECENT_RUNS])
    known = sorted({setting for run in recent for setting in run.params})
    near = get_close_matches(name, known, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else "lab show latest lists the settings"
    raise UserError(f"no run has a setting {name!r}: {hint}")


def _unmet(asked: Sequence[Filter], values: Mapping[str, str]) -> list[Filter]:
    return [one for one in asked if not one.matches(values[one.name])]


def _by_experiment(records: list[RunRecord]) -> dict[str, list[RunRecord]]:
    found: dict[str, list[RunRecord]] = {}
    for run in records:
        found.setdefault(run.experiment, []).append(run)
    return found


def _nearest(
    reader: RunReader,
    records: list[RunRecord],
    asked: Sequence[Filter],
    values: Mapping[str, Mapping[str, str]],
) -> list[Near]:
    """Runs with the same of the settings that were asked for are one of the nearest."""
    same: dict[tuple[str, ...], list[RunRecord]] = {}
    for run in records:
        same.setdefault((run.experiment, *values[run.id].values()), []).append(run)

    def distance(runs: list[RunRecord]) -> float:
        return sum(_distance(one, values[runs[0].id][one.name]) for one in asked)

    nearest = []
    for runs in sorted(same.values(), key=distance)[:MOST_NEAREST]:
        of_run = values[runs[0].id]
        differs = {one.name: of_run[one.name] for one in _unmet(asked, of_run)}
        nearest.append(Near(Tries.of(reader.with_values(runs)), distance(runs), differs))
    return nearest


def _distance(condition: Filter, value: Value) -> float:
    """0 where the condition is met, 1 for another text or a factor of ten."""
    left, right = to_number(value), to_number(condition.value)
    if condition.matches(value):
        return 0.0
    if left is None or right is None or condition.operator == "!=":
        return 1.0
    if left > 0 and right > 0:
        return abs(math.log10(left / right))
    return abs(left - right) / (abs(left) + abs(right) or 1)


def print_answer(answer: Answer, conditions: Sequence[str], limit: int) -> None:
    """Print in words how it went, then the runs; or the nearest and in what they differ."""
    console = get_console()
    for tries in answer.tried:
        count = len(tries.records)
        times = "once" if count == 1 else f"{count} times"
        line = f"[bold]tried {times}[/] in {tries.experiment}: {escape(tries.in_words())}"
        console.print(line, highlight=False, soft_wrap=True)
        shown = tries.records[: limit or None]
        print_runs(Selection(shown, count, set(), answer.hides_members), Query())
    if not answer.tried:
        console.print(f"[bold]not tried[/]: {escape(' '.join(conditions))}", highlight=False)
        _print_nearest(answer.nearest)


def _print_nearest(nearest: Sequence[Near]) -> None:
    if not nearest:
        print("no run has all of these settings")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("the nearest differ in", overflow="fold")
    table.add_column("runs", justify="right")
    table.add_column("how it went", overflow="fold")
    several = len({near.tries.experiment for near in nearest}) > 1
    for near in nearest:
        where = f"{near.tries.experiment}: " if several else ""
        cells = (format_settings(near.differs), str(len(near.tries.records)), where)
        table.add_row(*map(escape, (*cells[:2], f"{where}{near.tries.in_words()}")))
    get_console().print(table, highlight=False)


def as_dict(reader: RunReader, answer: Answer, limit: int) -> dict[str, object]:
    """The answer as `lab tried --json` prints it."""
    runs = [run for tries in answer.tried for run in tries.records[: limit or None]]
    nearest = [
        {
            "distance": near.distance,
            "differs": {name: to_value(text) for name, text in near.differs.items()},
            **near.tries.as_dict(),
        }
        for near in answer.nearest
    ]
    return {
        "tried": bool(answer.tried),
        "experiments": [tries.as_dict() for tries in answer.tried],
        "runs": as_dicts(reader, runs),
        "nearest": nearest,
    }
