"""`lab report`: one HTML file about some runs, which can be mailed, read on a phone and printed.

It loads nothing and runs no script. Each part of the page is read by a file beside this one:

report_runs.py        which runs, and the table of what differs
report_question.py    notes, search spaces, verdicts, differences
report_curves.py      curves of metrics; report_charts.py draws all charts
report_studies.py     charts of studies and groups
report_pictures.py    figures of the runs
report_origin.py      data, code, machines, commands
report_page.html      the page, a template of Jinja, which escapes all that people have typed
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from src.utils.errors import UserError
from src.utils.files import replace_file
from src.utils.lab.report_charts import Chart
from src.utils.lab.report_curves import draw_curves
from src.utils.lab.report_origin import read_code, read_commands, read_data, read_machines
from src.utils.lab.report_pictures import Picture, read_pictures
from src.utils.lab.report_question import (
    MOST_VERDICTS,
    StudyQuestion,
    read_differences,
    read_questions,
    read_study,
    read_verdicts,
)
from src.utils.lab.report_runs import COLOURS, Subject, count_states, make_table, select_subject
from src.utils.lab.report_studies import draw_groups, draw_study
from src.utils.lab.runs import format_result, varying_params
from src.utils.paths import display_path
from src.utils.store.reader import RunReader
from src.utils.store.record import RunRecord
from src.utils.terminal import format_duration, format_settings, format_size

TEMPLATE = Path(__file__).with_name("report_page.html")
SUFFIX = ".html"
LONGEST_SETTINGS = 80  # characters in the headline


@dataclass(frozen=True)
class Report:
    """A report that was written."""

    file: Path
    subject: Subject
    charts: list[str]  # their titles
    pictures: int
    left_out: list[str]


def write_report(reader: RunReader, references: Sequence[str], file: Path, limit: int) -> Report:
    """Write a report on some runs; an older one is replaced in one step.

    Args:
        references: of runs, groups, studies and experiments; none means the newest model.
        limit: the newest runs of an experiment; 0 means all.

    Raises:
        UserError: the file can't be written; a reference means nothing; there is no run.
    """
    _check_file(file)
    subject = select_subject(reader, references, limit)
    content = _content(reader, subject)
    page = _render(subject, content)
    try:
        with replace_file(file) as draft:
            draft.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file} can't be written: {error.strerror}") from None
    charts = [
        *content["groups"],
        *content["curves"],
        *(c for one in content["studies"] for c in one.charts),
    ]
    return Report(
        file,
        subject,
        [chart.title for chart in charts],
        len(content["pictures"]),
        content["left_out"],
    )


def _check_file(file: Path) -> None:
    """Before the work is done."""
    folder = file.absolute().parent
    if file.suffix != SUFFIX:
        raise UserError(f"--out {file}: the report is a page, so the name ends with {SUFFIX}")
    if not folder.is_dir():
        raise UserError(f"--out {file}: there is no folder {folder}: make it first")
    if file.is_dir() or not os.access(file if file.exists() else folder, os.W_OK):
        raise UserError(f"--out {file} can't be written: choose another place")


@dataclass(frozen=True)
class Headline:
    """The best result."""

    result: str
    run: RunRecord
    settings: str  # in which the run differs from others; empty if they are many


@dataclass(frozen=True)
class StudyPart:
    """What the page has of a study."""

    study: RunRecord
    question: StudyQuestion
    charts: list[Chart]
    plots: list[Picture]


def _content(reader: RunReader, subject: Subject) -> dict[str, Any]:
    """The variables of the template."""
    curves = draw_curves(reader, subject)
    charts = {study.id: draw_study(subject, study) for study in subject.studies}
    drawn = [study for study, some in charts.items() if some and some[-1].title == "importances"]
    pictures = read_pictures(subject, drawn)
    return {
        "title": ", ".join(subject.experiments),
        "headline": _headline(subject),
        "summary": list(_summary(subject)),
        "made": datetime.now().astimezone(),
        "questions": read_questions(subject),
        "studies": [
            StudyPart(
                study,
                read_study(subject, study),
                charts[study.id],
                [one for one in pictures.shown if one.run == study],
            )
            for study in subject.studies
        ],
        "table": make_table(reader, subject),
        "verdicts": read_verdicts(reader, subject),
        "differences": read_differences(reader, subject),
        "groups": draw_groups(subject),
        "curves": curves.charts,
        "pictures": [one for one in pictures.shown if not one.run.is_study],
        "data": read_data(reader, subject),
        "code": read_code(subject),
        "machines": read_machines(subject),
        "commands": read_commands(subject),
        "left_out": [*_left_out(subject), *curves.left_out, *pictures.left_out],
    }


def _left_out(subject: Subject) -> Iterator[str]:
    if subject.left_out:
        yield f"{subject.left_out} more runs, the last in the order of the table"
    if len(subject.groups) > MOST_VERDICTS + 1:
        yield f"verdicts on {len(subject.groups) - MOST_VERDICTS - 1} more groups: lab diff RUN OTHER"


def _headline(subject: Subject) -> Headline | None:
    best, objective = subject.best, subject.objective
    if best is None or objective is None:
        return None
    alike = [run for run in subject.runs if run.experiment == best.experiment]
    settings = format_settings(varying_params(alike)[best.id])
    shown = settings if len(settings) <= LONGEST_SETTINGS else ""
    return Headline(f"{objective.metric} {format_result(best, objective.metric)}", best, shown)


def _summary(subject: Subject) -> list[str]:
    """`17 runs: 12 finished, 4 pruned, 1 failed`, `2 h 3 min`, the time of the first and the last."""
    count = len(subject.runs)
    seconds = sum(run.seconds or 0.0 for run in subject.runs)
    days = sorted({f"{run.started:%Y-%m-%d}" for run in subject.runs if run.started})
    return [
        f"{count} run{'s' * (count != 1)}: {', '.join(count_states(subject.runs))}",
        f"{format_duration(timedelta(seconds=seconds))} of computing",
        " to ".join(dict.fromkeys([*days[:1], *days[-1:]])),
    ]


def _render(subject: Subject, content: dict[str, Any]) -> str:
    from jinja2 import Environment, StrictUndefined  # late: only this command needs it

    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )

    def colour(run: RunRecord) -> str:
        number = subject.colour(run)
        return "other" if number is None else f"c{number}"

    environment.globals |= {
        "all_runs": subject.runs,
        "objective": subject.objective,
        "colours": COLOURS,
        "colour": colour,
        "label": subject.label,
        "number": subject.number,
    }
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(content)


def print_report(report: Report) -> None:
    """Print what the file contains, and what is left out of it."""
    subject = report.subject
    counts = {
        "run": len(subject.runs),
        "study": len(subject.studies),
        "chart": len(report.charts),
        "picture": report.pictures,
    }
    plurals = {"study": "studies"}
    parts = [
        f"{count} {name if count == 1 else plurals.get(name, f'{name}s')}"
        for name, count in counts.items()
        if count
    ]
    size = format_size(report.file.stat().st_size)
    print(f"{display_path(report.file)}: {', '.join(parts)}; {size}, all in one file")
    for line in report.left_out:
        print(f"left out: {line}")


def as_dict(report: Report) -> dict[str, Any]:
    """The report as `lab report --json` prints it."""
    subject = report.subject
    return {
        "file": report.file,
        "bytes": report.file.stat().st_size,
        "runs": [run.id for run in subject.runs],
        "studies": [run.id for run in subject.studies],
        "best": subject.best.id if subject.best else None,
        "charts": report.charts,
        "pictures": report.pictures,
        "left_out": report.left_out,
    }
