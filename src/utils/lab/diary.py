"""The diary: one Markdown page a day, `diary/YYYY-MM-DD.md`, with a report of the runs and your own text.

`lab diary` writes the report between two marks and replaces only what stands between them. The first
mark holds the period of the report: from the end of the previous page's period to the time of writing.
`lab new` appends an entry for the new experiment. The report itself is made in `diary_report.py`.
"""

import os
import re
from dataclasses import dataclass
from datetime import date, datetime, time
from pathlib import Path

from src.utils.errors import UserError
from src.utils.files import replace_file
from src.utils.paths import ROOT, Experiment

DIARY = ROOT / "diary"
# The marks around the report, as pages of earlier versions have them, too.
BEGIN = "<!-- facts since {since} until {until}: what `lab diary` writes here, it replaces -->"
BEGIN_PATTERN = re.compile(r"<!-- facts since (.*?) until (.*?): .*-->")
END = "<!-- end of facts -->"
NO_START = "the beginning"  # the start of a period that has none
TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%z"
HEADINGS = """
## What was tried

## What was learnt

## What to try next
"""


@dataclass(frozen=True)
class DiaryPage:
    """The page of one day."""

    day: date

    @classmethod
    def today(cls) -> "DiaryPage":
        return cls(datetime.now().date())

    @property
    def file(self) -> Path:
        return DIARY / f"{self.day:%Y-%m-%d}.md"

    def read(self) -> str:
        """The text of the page; the headings of a new page where there is none yet."""
        if self.file.exists():
            return self.file.read_bytes().decode()  # as bytes: line endings stay as they are
        return f"# {self.day}\n{HEADINGS}"

    def period(self) -> tuple[datetime | None, datetime] | None:
        """Start and end of the period of the report; None without a report."""
        mark = BEGIN_PATTERN.search(self.read())
        if mark is None:
            return None
        start = None if mark[1] == NO_START else datetime.fromisoformat(mark[1])
        return start, datetime.fromisoformat(mark[2])

    def write_report(self, report: str, since: datetime | None, until: datetime) -> None:
        """Write the report in place of the previous one; the rest of the page stays as it is.

        Raises:
            UserError: the mark at the end of the previous report is missing.
        """
        text = self.read()
        start = f"{since:{TIME_FORMAT}}" if since else NO_START
        begin = BEGIN.format(since=start, until=f"{until:{TIME_FORMAT}}")
        block = f"{begin}\n\n{report.strip()}\n\n{END}"
        mark = BEGIN_PATTERN.search(text)
        if mark is None:
            self._write(_insert(text, block))
            return
        end = text.find(END, mark.end())
        if end < 0:
            raise UserError(f"{self.file.relative_to(ROOT)} has lost its line {END}: put it back")
        self._write(text[: mark.start()] + block + text[end + len(END) :])

    def append(self, text: str) -> None:
        """Write text at the end of the page."""
        self._write(f"{self.read().rstrip()}\n\n{text.strip()}\n")

    def _write(self, text: str) -> None:
        with replace_file(self.file) as draft:
            draft.write_bytes(text.encode())


def _insert(text: str, block: str) -> str:
    """Below the title, or at the top of a page without one."""
    title = re.match(r"# .*\n", text)
    at = title.end() if title else 0
    return f"{text[:at]}\n{block}\n{text[at:]}" if title else f"{block}\n\n{text}"


def previous_end(page: DiaryPage) -> datetime | None:
    """The end of the previous page's period; the end of its day, where it has no report."""
    days = sorted(file.stem for file in DIARY.glob("????-??-??.md"))
    earlier = [day for day in days if day < page.file.stem]
    if not earlier:
        return None
    previous = DiaryPage(date.fromisoformat(earlier[-1]))
    period = previous.period()
    return period[1] if period else datetime.combine(previous.day, time.max).astimezone()


def add_entry(new: Experiment, source: Experiment, note: str) -> Path:
    """Append an entry for a new experiment to today's page, and return its file."""
    page = DiaryPage.today()
    heading = f"## {new}, from {source}"
    page.append(
        "\n\n".join([heading, f"Note: {note}".strip(), "What was learnt:", "What to try next:"])
    )
    return page.file


def link(path: Path, name: str) -> str:
    """A Markdown link with a path relative to the diary's folder."""
    return f"[{name}]({os.path.relpath(path, DIARY)})"
