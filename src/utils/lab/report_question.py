"""What a report says in words: the notes of the runs, what studies searched, verdicts and differences."""

from collections.abc import Sequence
from dataclasses import dataclass

from src.utils.lab.diff import compare_runs
from src.utils.lab.filter import to_number
from src.utils.lab.report_runs import Subject, count_states
from src.utils.lab.runs import varying_params
from src.utils.store.objective import Objective
from src.utils.store.reader import RunReader
from src.utils.store.record import RunRecord
from src.utils.terminal import format_value

MOST_VERDICTS = 5  # of the best group with others
MOST_CHOICES = 6  # values of a parameter that are listed
DIGESTS, SHORT_DIGEST = ("data", "commit"), 12  # characters


@dataclass(frozen=True)
class Question:
    """A note, and the runs that it was typed for."""

    note: str
    labels: list[str]
    runs: list[RunRecord]


@dataclass(frozen=True)
class Parameter:
    """A parameter of a study: what was tried, and what the best trial has."""

    name: str
    tried: str
    best: str


@dataclass(frozen=True)
class StudyQuestion:
    """What a study was to find."""

    note: str
    objective: str
    trials: str
    space: list[Parameter]
    command: str


@dataclass(frozen=True)
class Verdict:
    """Which of two groups is better, in a few lines."""

    best: RunRecord
    other: RunRecord
    lines: list[str]


@dataclass(frozen=True)
class Difference:
    """A value that is not the same in two runs."""

    section: str
    name: str
    values: tuple[str, str]


def read_questions(subject: Subject) -> list[Question]:
    """The notes of the runs that are no trials, in the order in which they were asked."""
    found: dict[str, list[RunRecord]] = {}
    for run in sorted(subject.runs, key=lambda run: str(run.started)):
        if run.note and "optuna.trial" not in run.tags:
            found.setdefault(run.note, []).append(run)
    return [
        Question(note, sorted({label for run in runs for label in run.labels}), runs)
        for note, runs in found.items()
    ]


def read_study(subject: Subject, study: RunRecord) -> StudyQuestion:
    """The note, the search space and the objective of a study."""
    trials, objective = subject.trials(study), Objective.of(study)
    verb = "maximize" if objective and objective.maximize else "minimize"
    values = varying_params(trials)
    best = values.get(study.best.get("run_id", ""), {})
    space = [
        Parameter(
            name,
            _tried([one[name] for one in values.values() if name in one]),
            format_value(best.get(name, "")),
        )
        for name in dict.fromkeys(name for one in values.values() for name in one)
    ]
    return StudyQuestion(
        study.note,
        f"{verb} {objective.metric}" if objective else "",
        f"{len(trials)} trials: {', '.join(count_states(trials))}",
        space,
        study.tags.get("command", ""),
    )


def _tried(texts: Sequence[str]) -> str:
    """`64, 128, 256`, or the ends of a range."""
    values = sorted(set(texts), key=lambda text: (to_number(text) or 0.0, text))
    if len(values) <= MOST_CHOICES:
        return ", ".join(map(format_value, values))
    return f"{format_value(values[0])} to {format_value(values[-1])}"


def read_verdicts(reader: RunReader, subject: Subject) -> list[Verdict]:
    """The verdicts between the best group and the others; of two runs, why there is none."""
    groups = subject.runs if len(subject.runs) == 2 else subject.groups
    if len(groups) < 2:
        return []
    from src.utils.lab.verdict import verdict_lines  # late: it imports scipy

    first = next((run for run in groups if run == subject.best), groups[0])
    others = [run for run in groups if run.id != first.id][:MOST_VERDICTS]
    return [Verdict(first, other, verdict_lines(reader, other, first)) for other in others]


def read_differences(reader: RunReader, subject: Subject) -> list[Difference]:
    """All that differs between the two runs of a report, as in `lab diff`; no settings of one model alone."""
    if len(subject.runs) != 2:
        return []
    sections = compare_runs(reader, *subject.runs)
    are_alike = len(subject.experiments) == 1
    return [
        Difference(section, name, (_shortened(section, old), _shortened(section, new)))
        for section, pairs in sections.items()
        for name, (old, new) in pairs.items()
        if are_alike or section != "settings" or (old and new)
    ]


def _shortened(section: str, text: str) -> str:
    return text[:SHORT_DIGEST] if section in DIGESTS else format_value(text)
