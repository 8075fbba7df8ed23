"""The facts of a day: what ran since the last entry, and how it came out, for the diary."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import mean, stdev

from src.utils.config.composition import defaults
from src.utils.lab.diary import link
from src.utils.lab.runs import NOT_COMPARED, data_marks, departures, differences
from src.utils.paths import STAGES, Experiment
from src.utils.store.objective import Objective, objective, results
from src.utils.store.reader import Entry, Ledger, artifact
from src.utils.store.reference import trials_of
from src.utils.terminal import figure, lab_command, spelled

from rich.cells import cell_len

MOST_ROWS = 15  # of one question; the best are shown
FAILED = ("failed", "killed")
Row = Sequence[str]


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


def since(ledger: Ledger, moment: datetime | None) -> list[Entry]:
    """What has ended since then, or still runs, the oldest first."""
    entries = [
        one
        for one in reversed(ledger.headers())
        if one.experiment.split("/")[0] in STAGES  # not what other tools track here
        and (moment is None or one.ended is None or one.ended > moment)
    ]
    return ledger.filled(entries)


def tell(ledger: Ledger, entries: Sequence[Entry], moment: datetime | None) -> str:
    """The facts in Markdown that can be read as it is."""
    names = sorted(
        {one.experiment for one in entries}, key=lambda name: (name[:6] != "model/", name)
    )
    parts = [_headline(entries, moment)]
    parts += [
        text
        for name in names
        for text in _experiment(ledger, name, [one for one in entries if one.experiment == name])
    ]
    return "\n\n".join(parts)


def _headline(entries: Sequence[Entry], moment: datetime | None) -> str:
    states = Counter(one.state for one in entries if not one.is_study)
    counts = ", ".join(f"{number} {state}" for state, number in states.most_common())
    sweeps = sum(one.is_study for one in entries)
    began = f"since {moment:%Y-%m-%d %H:%M}" if moment else "so far"
    of_them = f" ({counts})" if counts else ""
    return f"Runs {began}: {sum(states.values())}{of_them}" + (
        f"; sweeps: {sweeps}" if sweeps else ""
    )


def _experiment(ledger: Ledger, name: str, entries: Sequence[Entry]) -> Iterator[str]:
    yield f"### {name}"
    aim = objective(entries)
    alone = [one for one in entries if not one.is_study and "optuna.trial" not in one.tags]
    done = [one for one in alone if one.state not in FAILED]
    base = defaults(Experiment.named(name))
    for question, groups in _questions(grouped(done)).items():
        yield _asked(question, groups)
        yield _table(_ranked(groups, aim), base, aim)
    lines = [_sweep(ledger, one) for one in entries if one.is_study]
    best = aim.best(entries) if aim and name.startswith("model/") else None
    lines += [_best(best, data_marks(entries)[best.id])] if best else []
    lines += [_failure(one) for one in alone if one.state in FAILED]
    if lines:
        yield "\n".join(lines)


def _questions(groups: list[Repeats]) -> dict[str, list[Repeats]]:
    """Together what was asked together; what was not asked comes last."""
    notes = dict.fromkeys(group.runs[0].note for group in groups)
    ordered = sorted(notes, key=lambda note: not note)
    return {note: [one for one in groups if one.runs[0].note == note] for note in ordered}


def _asked(question: str, groups: list[Repeats]) -> str:
    labels = sorted({f"#{label}" for group in groups for one in group.runs for label in one.labels})
    return " ".join([f"**{question}**" if question else "*(no question was noted)*", *labels])


def _ranked(groups: list[Repeats], aim: Objective | None) -> list[Repeats]:
    return sorted(groups, key=lambda one: aim.rank(one.mean(aim.metric))) if aim else groups


def _table(groups: list[Repeats], base: dict[str, str] | None, aim: Objective | None) -> str:
    """The runs of one question, each setting on a line."""
    known = {name for group in groups for one in group.runs for name in one.metrics}
    names = [*(aim.partners if aim else []), *results(known)]
    shown = [name for name in dict.fromkeys(names) if name in known][:2]
    first = [group.runs[0] for group in groups]
    among, marks = differences(first), data_marks(first)
    rows: list[Row] = [("run", "seeds", *shown, "settings beside the defaults")]
    for group in groups[:MOST_ROWS]:
        newest = group.runs[-1]
        changes = among[newest.id] if base is None else departures(newest, base)
        mark = "" if newest.state == "finished" else f" ({newest.state})"
        figures = (group.spelled(name) for name in shown)
        run = f"{newest.short}{'*' * newest.is_dirty}{mark}"
        said = f"{spelled(changes) or 'none'} {marks[group.runs[0].id]}".strip()
        rows.append((run, str(group.seeds), *figures, said))
    hidden = len(groups) - MOST_ROWS
    return _aligned(rows) + (f"\n\n… and {hidden} settings more" if hidden > 0 else "")


def _aligned(rows: list[Row]) -> str:
    """A Markdown table that is a table to the eye, too."""
    widths = [max(cell_len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| "
        + " | ".join(c + " " * (w - cell_len(c)) for c, w in zip(row, widths, strict=True))
        + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _sweep(ledger: Ledger, study: Entry) -> str:
    trials = trials_of(ledger, study)
    states = Counter(one.state for one in trials)
    counts = ", ".join(f"{number} {state}" for state, number in states.most_common())
    asked = next((f"«{one.note}» " for one in trials if one.note), "")
    space = sorted({name for changes in differences(trials).values() for name in changes})
    best = study.best
    run_id, value = best.pop("run_id", ""), best.pop("value", "").strip("[]")
    parts = [f"- sweep {study.name}: {asked}{len(trials)} trials ({counts})"]
    parts += [f"over {', '.join(space)}"] if space else []
    if value:
        parts.append(f"best {_short(value)} with {spelled(best)}, run {run_id[:8]}")
    return "; ".join(parts) + _pictures(
        study, "plots", ("optimization_history", "param_importances")
    )


def _best(one: Entry, data: str) -> str:
    known = results(one.metrics)
    names = [name for name in known if name.startswith(("val", "test"))][:4] or known[:4]
    values = ", ".join(f"{name} {figure(one.metrics[name])}" for name in names)
    return (
        f"- best: {one.short} ({one.name}), {values}{data and ' '}{data}"
        f"; again: `{lab_command()} rerun {one.short}`" + _pictures(one, "pictures")
    )


def _failure(one: Entry) -> str:
    trace = artifact(one, "logs/traceback.txt")
    last = trace.read_text().strip().splitlines()[-1] if trace else ""
    reason = one.tags.get("reason") or last
    return f"- {one.state}: {one.short} ({one.name})" + (f", {reason}" if reason else "")


def _pictures(one: Entry, folder: str, names: Sequence[str] = ()) -> str:
    place = artifact(one, folder)
    files = sorted(place.glob("*.png")) if place else []
    links = [link(file, file.stem) for file in files if not names or file.stem in names]
    return "".join(f"\n  - {one}" for one in links)


def _short(values: str) -> str:
    return ", ".join(figure(float(value)) for value in values.split(","))


# MERGED lab/repeats: Runs that are equal but for their seed, and what they have in common: mean ± standard deviation.
