"""The pictures of a report: figures of runs, and plots of studies that the report does not draw itself."""

import base64
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from src.utils.lab.report_runs import Subject
from src.utils.lab.report_studies import IMPORTANCES
from src.utils.store.reader import find_artifact
from src.utils.store.record import RunRecord
from src.utils.terminal import format_size

MOST_PICTURES, MOST_BYTES = 8, 1_000_000  # of all runs together
TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}
FOLDERS = ("figures", "pictures")  # pictures: as stored by earlier versions
OF_GROUPS = ("members.png", "curves.png")  # that a report draws itself
OF_STUDIES = (IMPORTANCES, "pareto_front")


@dataclass(frozen=True)
class Picture:
    """A picture that stands in the page."""

    run: RunRecord
    title: str
    uri: str  # the picture itself


@dataclass(frozen=True)
class Pictures:
    """The pictures that there is room for, and what is left out."""

    shown: list[Picture]
    left_out: list[str]


def read_pictures(subject: Subject, drawn: Container[str] = ()) -> Pictures:
    """The plots of the studies, and the figures of the best runs, as many as there is room for.

    Args:
        drawn: the ids of studies whose importances the report draws itself
    """
    shown: list[Picture] = []
    left_out, size, room = 0, 0, MOST_BYTES
    for run, file in _files(subject, drawn):
        if len(shown) < MOST_PICTURES and file.stat().st_size <= room:
            room -= file.stat().st_size
            data = base64.b64encode(file.read_bytes()).decode()
            title = file.stem.replace("_", " ")
            shown.append(Picture(run, title, f"data:{TYPES[file.suffix]};base64,{data}"))
        else:
            left_out += 1
            size += file.stat().st_size
    line = (
        f"{left_out} picture{'s' * (left_out > 1)} of {format_size(size)}: they stay with the runs"
    )
    return Pictures(shown, [line] if left_out else [])


def _files(subject: Subject, drawn: Container[str]) -> Iterator[tuple[RunRecord, Path]]:
    for study in subject.studies:
        for file in _pictures(study, "plots"):
            if file.stem in OF_STUDIES and not (file.stem == IMPORTANCES and study.id in drawn):
                yield study, file
    for run in subject.runs:
        for folder in FOLDERS:
            for file in _pictures(run, folder):
                if not (run.is_group and file.name in OF_GROUPS):
                    yield run, file


def _pictures(run: RunRecord, folder: str) -> list[Path]:
    found = find_artifact(run, folder)
    files = sorted(found.rglob("*")) if found else []
    return [file for file in files if file.suffix in TYPES]
