"""`lab diary`: the report of the runs that have ended since the previous page of the diary, in Markdown.

For each experiment: a table of runs per note, with mean ± standard deviation over seeds or of the members of
a group, then the sweeps, the best run and the failures.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import mean, stdev

from src.utils.config.composition import default_values
from src.utils.lab.diary import link
from src.utils.lab.runs import (
    NOT_COMPARED,
    data_labels,
    data_metadata,
    format_result,
    overrides_of,
    varying_params,
)
from src.utils.lab.show import failure_reason, repeat_command
from src.utils.paths import Experiment, list_stages
from src.utils.store.objective import Objective, find_objective, result_metrics
from src.utils.store.reader import RunReader, find_artifact
from src.utils.store.record import RunRecord
from src.utils.store.reference import list_trials, without_members
from src.utils.terminal import format_metric, format_settings

from rich.cells import cell_len

MOST_ROWS = 15  # of a table: the best ones
FAILED = ("failed", "killed")
STUDY_PLOTS = ("optimization_history", "param_importances")  # that are linked
Row = Sequence[str]


@dataclass(frozen=True)
class Repeats:
    """Runs that are equal except for their seed, or one group, whose members are."""

    runs: list[RunRecord]

    @property
    def seeds(self) -> str:
        """The number of seeds; of a group `5 folds, 3 seeds`."""
        return self.runs[0].shape or str(len({run.params.get("seed") for run in self.runs}))

    def mean(self, metric: str) -> float | None:
        values = self._values(metric)
        return mean(values) if values else None

    def format(self, metric: str) -> str:
        """`0.9712 ± 0.0021`, or the value alone for a single seed; of a group with its number of members."""
        if self.runs[0].is_group:
            return format_result(self.runs[0], metric)
        values = self._values(metric)
        deviation = f" ± {format_metric(stdev(values))}" if len(values) > 1 else ""
        return f"{format_metric(mean(values))}{deviation}" if values else ""

    def _values(self, metric: str) -> list[float]:
        """One for each seed: repeats of a run must not reduce the standard deviation."""
        by_seed = {run.params.get("seed"): run.metrics.get(metric) for run in reversed(self.runs)}
        return [value for value in by_seed.values() if value is not None]


def collect_repeats(records: Iterable[RunRecord]) -> list[Repeats]:
    """Put together the runs with the same params except the seed, and the same note, code and data."""
    repeats: dict[tuple[str, ...], list[RunRecord]] = {}
    for run in records:
        params = {k: v for k, v in run.settings.items() if k not in NOT_COMPARED}
        data = repr(data_metadata(run))
        key = (run.experiment, run.note, _code_digest(run), repr(sorted(params.items())), data)
        is_one = run.is_group or run.blended
        repeats.setdefault((run.id,) if is_one else key, []).append(run)
    return [Repeats(runs) for runs in repeats.values()]


def _code_digest(record: RunRecord) -> str:
    source = find_artifact(record, "source")
    files = sorted(source.rglob("*.py")) if source else []
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def runs_since(reader: RunReader, moment: datetime | None) -> list[RunRecord]:
    """The runs that have ended since then or are running, the oldest first."""
    stages = list_stages()
    records = [
        run
        for run in reversed(reader.runs())
        if run.experiment.split("/")[0] in stages  # not what other tools track here
        and (moment is None or run.ended is None or run.ended > moment)
    ]
    return reader.with_values(records)


def day_report(reader: RunReader, records: Sequence[RunRecord], moment: datetime | None) -> str:
    """The report of these runs in Markdown; `moment` is the start of its period."""
    records = without_members(reader, records)
    names = {run.experiment for run in records}
    models = {run.experiment for run in records if run.is_model}
    parts = [_headline(records, moment)]
    for name in sorted(names, key=lambda name: (name not in models, name)):
        runs = [run for run in records if run.experiment == name]
        parts += _experiment_section(reader, name, runs)
    return "\n\n".join(parts)


def _headline(records: Sequence[RunRecord], moment: datetime | None) -> str:
    runs = [run for run in records if not run.is_study]
    period = f"since {moment:%Y-%m-%d %H:%M}" if moment else "so far"
    states = f" ({_count_states(runs)})" if runs else ""
    sweeps = len(records) - len(runs)
    return f"Runs {period}: {len(runs)}{states}" + (f"; sweeps: {sweeps}" if sweeps else "")


def _count_states(records: Sequence[RunRecord]) -> str:
    """`3 finished, 1 failed`"""
    states = Counter(run.state for run in records)
    return ", ".join(f"{count} {state}" for state, count in states.most_common())


def _experiment_section(
    reader: RunReader, name: str, records: Sequence[RunRecord]
) -> Iterator[str]:
    yield f"### {name}"
    objective = find_objective(records)
    runs = [run for run in records if not run.is_study and "optuna.trial" not in run.tags]
    default_params = default_values(Experiment.named(name))
    completed = [run for run in runs if run.state not in FAILED]
    for note, repeats in _by_note(collect_repeats(completed)).items():
        yield _note_line(note, repeats)
        yield _table(_ranked(repeats, objective), default_params, objective)
    is_model = any(run.is_model for run in records)
    best = objective.best_run(records) if objective and is_model else None
    lines = [_sweep_line(reader, run) for run in records if run.is_study]
    lines += [_best_line(best, data_labels(records)[best.id])] if best else []
    lines += [_failure_line(run) for run in runs if run.state in FAILED]
    if lines:
        yield "\n".join(lines)


def _by_note(repeats: list[Repeats]) -> dict[str, list[Repeats]]:
    """Runs without a note come last."""
    notes = dict.fromkeys(one.runs[0].note for one in repeats)
    ordered = sorted(notes, key=lambda note: not note)
    return {note: [one for one in repeats if one.runs[0].note == note] for note in ordered}


def _note_line(note: str, repeats: list[Repeats]) -> str:
    labels = {f"#{label}" for one in repeats for run in one.runs for label in run.labels}
    return " ".join([f"**{note}**" if note else "*(no note)*", *sorted(labels)])


def _ranked(repeats: list[Repeats], objective: Objective | None) -> list[Repeats]:
    if objective is None:
        return repeats
    return sorted(repeats, key=lambda one: objective.sort_key(one.mean(objective.metric)))


def _table(
    repeats: list[Repeats], default_params: dict[str, str] | None, objective: Objective | None
) -> str:
    """The runs of one note, a line for those that are equal."""
    known = {name for one in repeats for run in one.runs for name in run.metrics}
    names = [*(objective.metrics if objective else []), *result_metrics(known)]
    metrics = [name for name in dict.fromkeys(names) if name in known][:2]
    first = [one.runs[0] for one in repeats]
    varying, labels = varying_params(first), data_labels(first)
    rows: list[Row] = [("run", "seeds", *metrics, "overrides")]
    for one in repeats[:MOST_ROWS]:
        oldest, newest = one.runs[0], one.runs[-1]
        overrides = (
            varying[oldest.id] if default_params is None else overrides_of(newest, default_params)
        )
        state = "" if newest.state == "finished" else f" ({newest.state})"
        run = f"{newest.short}{'*' * newest.is_dirty}{state}"
        values = (one.format(name) for name in metrics)
        settings = f"{format_settings(overrides) or 'none'} {labels[oldest.id]}".strip()
        rows.append((run, one.seeds, *values, settings))
    hidden = len(repeats) - MOST_ROWS
    return _aligned(rows) + (f"\n\n… and {hidden} more" if hidden > 0 else "")


def _aligned(rows: list[Row]) -> str:
    """A Markdown table whose columns are aligned in plain text, too."""
    widths = [max(cell_len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = (c + " " * (w - cell_len(c)) for c, w in zip(row, widths, strict=True))
        lines.append(f"| {' | '.join(cells)} |")
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _sweep_line(reader: RunReader, study: RunRecord) -> str:
    trials = list_trials(reader, study)
    note = next((f"«{run.note}» " for run in trials if run.note), "")
    space = sorted({name for params in varying_params(trials).values() for name in params})
    params = study.best
    run_id, values = params.pop("run_id", ""), params.pop("value", "").strip("[]")
    parts = [f"- sweep {study.name}: {note}{len(trials)} trials ({_count_states(trials)})"]
    parts += [f"over {', '.join(space)}"] if space else []
    if values:
        best = ", ".join(format_metric(float(value)) for value in values.split(","))
        parts.append(f"best {best} with {format_settings(params)}, run {run_id[:8]}")
    return "; ".join(parts) + _figure_links(study, "plots", STUDY_PLOTS)


def _best_line(record: RunRecord, data_label: str) -> str:
    known = result_metrics(record.metrics)
    names = [name for name in known if name.startswith(("val", "test"))][:4] or known[:4]
    values = ", ".join(f"{name} {format_result(record, name)}" for name in names)
    return (
        f"- best: {record.short} ({record.name}), {values}{data_label and ' '}{data_label}"
        f"; repeat it: `{repeat_command(record)}`"
        # pictures: as stored by earlier versions
        + (_figure_links(record, "figures") or _figure_links(record, "pictures"))
    )


def _failure_line(record: RunRecord) -> str:
    reason = failure_reason(record)
    return f"- {record.state}: {record.short} ({record.name})" + (f", {reason}" if reason else "")


def _figure_links(record: RunRecord, folder: str, names: Sequence[str] = ()) -> str:
    figures = find_artifact(record, folder)
    files = sorted(figures.glob("*.png")) if figures else []
    links = [link(file, file.stem) for file in files if not names or file.stem in names]
    return "".join(f"\n  - {text}" for text in links)
