"""The facts of a day: what ran since the last entry, and how it came out, for the diary."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import mean, stdev

from src.utils.config.composition import defaults
from src.utils.lab.diary import link
from src.utils.lab.runs import NOT_COMPARED, data_marks, differences, overrides_of
from src.utils.paths import STAGES, Experiment
from src.utils.store.objective import Objective, find_objective, result_metrics
from src.utils.store.reader import RunReader, RunRecord, find_artifact
from src.utils.store.reference import list_trials
from src.utils.terminal import format_metric, format_settings, lab_command

from rich.cells import cell_len

MOST_ROWS = 15  # of one question; the best are shown
FAILED = ("failed", "killed")
Row = Sequence[str]


@dataclass(frozen=True)
class SeedGroup:
    """One setting, tried once or with several seeds."""

    runs: list[RunRecord]

    @property
    def seeds(self) -> int:
        return len({one.params.get("seed") for one in self.runs})

    def mean(self, metric: str) -> float | None:
        values = self._values(metric)
        return mean(values) if values else None

    def format(self, metric: str) -> str:
        """`0.9712 ± 0.0021`, or the value alone where there is only one."""
        values = self._values(metric)
        spread = f" ± {format_metric(stdev(values))}" if len(values) > 1 else ""
        return f"{format_metric(mean(values))}{spread}" if values else ""

    def _values(self, metric: str) -> list[float]:
        """One for each seed: the same run twice says nothing new."""
        by_seed = {one.params.get("seed"): one.metrics.get(metric) for one in reversed(self.runs)}
        return [value for value in by_seed.values() if value is not None]


def grouped(records: Iterable[RunRecord]) -> list[SeedGroup]:
    """Together what has the same settings, the same question, the same code and the same data."""
    groups: dict[tuple[str, ...], list[RunRecord]] = {}
    for one in records:
        settings = {k: v for k, v in one.params.items() if k not in NOT_COMPARED}
        data = {k: v for k, v in one.tags.items() if k.startswith("data.")}
        key = (one.experiment, one.note, _code(one), repr(sorted(settings.items())), repr(data))
        groups.setdefault(key, []).append(one)
    return [SeedGroup(runs) for runs in groups.values()]


def _code(one: RunRecord) -> str:
    source = find_artifact(one, "source")
    files = sorted(source.rglob("*.py")) if source else []
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def since(reader: RunReader, moment: datetime | None) -> list[RunRecord]:
    """What has ended since then, or still runs, the oldest first."""
    records = [
        one
        for one in reversed(reader.runs())
        if one.experiment.split("/")[0] in STAGES  # not what other tools track here
        and (moment is None or one.ended is None or one.ended > moment)
    ]
    return reader.with_values(records)


def tell(reader: RunReader, records: Sequence[RunRecord], moment: datetime | None) -> str:
    """The facts in Markdown that can be read as it is."""
    names = sorted(
        {one.experiment for one in records}, key=lambda name: (name[:6] != "model/", name)
    )
    parts = [_headline(records, moment)]
    parts += [
        text
        for name in names
        for text in _experiment(reader, name, [one for one in records if one.experiment == name])
    ]
    return "\n\n".join(parts)


def _headline(records: Sequence[RunRecord], moment: datetime | None) -> str:
    states = Counter(one.state for one in records if not one.is_study)
    counts = ", ".join(f"{number} {state}" for state, number in states.most_common())
    sweeps = sum(one.is_study for one in records)
    began = f"since {moment:%Y-%m-%d %H:%M}" if moment else "so far"
    of_them = f" ({counts})" if counts else ""
    return f"Runs {began}: {sum(states.values())}{of_them}" + (
        f"; sweeps: {sweeps}" if sweeps else ""
    )


def _experiment(reader: RunReader, name: str, records: Sequence[RunRecord]) -> Iterator[str]:
    yield f"### {name}"
    aim = find_objective(records)
    alone = [one for one in records if not one.is_study and "optuna.trial" not in one.tags]
    done = [one for one in alone if one.state not in FAILED]
    base = defaults(Experiment.named(name))
    for question, groups in _questions(grouped(done)).items():
        yield _asked(question, groups)
        yield _table(_ranked(groups, aim), base, aim)
    lines = [_sweep(reader, one) for one in records if one.is_study]
    best = aim.best_run(records) if aim and name.startswith("model/") else None
    lines += [_best(best, data_marks(records)[best.id])] if best else []
    lines += [_failure(one) for one in alone if one.state in FAILED]
    if lines:
        yield "\n".join(lines)


def _questions(groups: list[SeedGroup]) -> dict[str, list[SeedGroup]]:
    """Together what was asked together; what was not asked comes last."""
    notes = dict.fromkeys(group.runs[0].note for group in groups)
    ordered = sorted(notes, key=lambda note: not note)
    return {note: [one for one in groups if one.runs[0].note == note] for note in ordered}


def _asked(question: str, groups: list[SeedGroup]) -> str:
    labels = sorted({f"#{label}" for group in groups for one in group.runs for label in one.labels})
    return " ".join([f"**{question}**" if question else "*(no question was noted)*", *labels])


def _ranked(groups: list[SeedGroup], aim: Objective | None) -> list[SeedGroup]:
    return sorted(groups, key=lambda one: aim.sort_key(one.mean(aim.metric))) if aim else groups


def _table(groups: list[SeedGroup], base: dict[str, str] | None, aim: Objective | None) -> str:
    """The runs of one question, each setting on a line."""
    known = {name for group in groups for one in group.runs for name in one.metrics}
    names = [*(aim.metrics if aim else []), *result_metrics(known)]
    shown = [name for name in dict.fromkeys(names) if name in known][:2]
    first = [group.runs[0] for group in groups]
    among, marks = differences(first), data_marks(first)
    rows: list[Row] = [("run", "seeds", *shown, "settings beside the defaults")]
    for group in groups[:MOST_ROWS]:
        newest = group.runs[-1]
        changes = among[newest.id] if base is None else overrides_of(newest, base)
        mark = "" if newest.state == "finished" else f" ({newest.state})"
        figures = (group.format(name) for name in shown)
        run = f"{newest.short}{'*' * newest.is_dirty}{mark}"
        said = f"{format_settings(changes) or 'none'} {marks[group.runs[0].id]}".strip()
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


def _sweep(reader: RunReader, study: RunRecord) -> str:
    trials = list_trials(reader, study)
    states = Counter(one.state for one in trials)
    counts = ", ".join(f"{number} {state}" for state, number in states.most_common())
    asked = next((f"«{one.note}» " for one in trials if one.note), "")
    space = sorted({name for changes in differences(trials).values() for name in changes})
    best = study.best
    run_id, value = best.pop("run_id", ""), best.pop("value", "").strip("[]")
    parts = [f"- sweep {study.name}: {asked}{len(trials)} trials ({counts})"]
    parts += [f"over {', '.join(space)}"] if space else []
    if value:
        parts.append(f"best {_short(value)} with {format_settings(best)}, run {run_id[:8]}")
    return "; ".join(parts) + _figure_links(
        study, "plots", ("optimization_history", "param_importances")
    )


def _best(one: RunRecord, data: str) -> str:
    known = result_metrics(one.metrics)
    names = [name for name in known if name.startswith(("val", "test"))][:4] or known[:4]
    values = ", ".join(f"{name} {format_metric(one.metrics[name])}" for name in names)
    return (
        f"- best: {one.short} ({one.name}), {values}{data and ' '}{data}"
        f"; again: `{lab_command()} rerun {one.short}`"
        + (_figure_links(one, "figures") or _figure_links(one, "pictures"))
    )


def _failure(one: RunRecord) -> str:
    trace = find_artifact(one, "logs/traceback.txt")
    last = trace.read_text().strip().splitlines()[-1] if trace else ""
    reason = one.tags.get("reason") or last
    return f"- {one.state}: {one.short} ({one.name})" + (f", {reason}" if reason else "")


def _figure_links(one: RunRecord, folder: str, names: Sequence[str] = ()) -> str:
    place = find_artifact(one, folder)
    files = sorted(place.glob("*.png")) if place else []
    links = [link(file, file.stem) for file in files if not names or file.stem in names]
    return "".join(f"\n  - {one}" for one in links)


def _short(values: str) -> str:
    return ", ".join(format_metric(float(value)) for value in values.split(","))


# MERGED lab/repeats: Runs that are equal but for their seed, and what they have in common: mean ± standard deviation.
