"""The diary: a page a day, `diary/YYYY-MM-DD.md`. Its facts come from here, its thoughts from a person.

Facts stand between two marks, and only what stands there is ever replaced. The first mark says of which
time they tell: from the last entry of the page before to the moment when they were written.
"""

import os
import re
from dataclasses import dataclass
from datetime import date, datetime, time
from pathlib import Path

from src.utils.errors import UserError
from src.utils.paths import ROOT, Experiment

DIARY = ROOT / "diary"
BEGIN = "<!-- facts since {since} until {until}: what `lab diary` writes here, it replaces -->"
BEGUN = re.compile(r"<!-- facts since (.*?) until (.*?): .*-->")
END = "<!-- end of facts -->"
FIRST = "the beginning"
THOUGHTS = """
## What was tried

## What was learnt

## What to try next
"""


@dataclass(frozen=True)
class Page:
    """The page of one day."""

    day: date

    @property
    def file(self) -> Path:
        return DIARY / f"{self.day:%Y-%m-%d}.md"

    def read(self) -> str:
        """What it says; for a page that is not there yet, what it begins with."""
        if self.file.exists():
            return self.file.read_bytes().decode()  # no ending of a line is changed
        return f"# {self.day}\n{THOUGHTS}"

    def span(self) -> tuple[datetime | None, datetime] | None:
        """Of which time its facts tell, if it has any."""
        found = BEGUN.search(self.read())
        if found is None:
            return None
        since = None if found[1] == FIRST else datetime.fromisoformat(found[1])
        return since, datetime.fromisoformat(found[2])

    def put(self, facts: str, since: datetime | None, until: datetime) -> None:
        """Write facts in place of the ones before; nothing else is touched."""
        text = self.read()
        stamps = (f"{one:%Y-%m-%dT%H:%M:%S%z}" if one else FIRST for one in (since, until))
        begin = BEGIN.format(since=next(stamps), until=next(stamps))
        block = f"{begin}\n\n{facts.strip()}\n\n{END}"
        found = BEGUN.search(text)
        if found is None:
            self._write(_inserted(text, block))
            return
        end = text.find(END, found.end())
        if end < 0:
            raise UserError(f"{self.file.relative_to(ROOT)} has lost its line {END}: put it back")
        self._write(text[: found.start()] + block + text[end + len(END) :])

    def add(self, text: str) -> None:
        """Write something at the end, for a person to go on with."""
        self._write(f"{self.read().rstrip()}\n\n{text.strip()}\n")

    def _write(self, text: str) -> None:
        """Whole or not at all."""
        DIARY.mkdir(exist_ok=True)
        draft = self.file.with_suffix(".draft")
        draft.write_bytes(text.encode())
        draft.replace(self.file)


def today() -> Page:
    """The page to write on."""
    return Page(datetime.now().date())


def last_entry(before: Page) -> datetime | None:
    """Until when the newest earlier page tells; the end of its day, where it has no facts."""
    days = sorted(file.stem for file in DIARY.glob("????-??-??.md"))
    earlier = [day for day in days if day < before.file.stem]
    if not earlier:
        return None
    page = Page(date.fromisoformat(earlier[-1]))
    span = page.span()
    return span[1] if span else datetime.combine(page.day, time.max).astimezone()


def begin_entry(new: Experiment, source: Experiment, idea: str) -> Path:
    """Start a day's entry on a new experiment."""
    page = today()
    headings = [f"## {new}, from {source}", f"What is to be tried: {idea}".strip()]
    page.add("\n\n".join([*headings, "What was learnt:", "What to try next:"]))
    return page.file


def link(path: Path, name: str) -> str:
    """A link that works from the diary."""
    return f"[{name}]({os.path.relpath(path, DIARY)})"


def _inserted(text: str, block: str) -> str:
    """Facts come after the title, or first where a person wrote none."""
    title = re.match(r"# .*\n", text)
    at = title.end() if title else 0
    return f"{text[:at]}\n{block}\n{text[at:]}" if title else f"{block}\n\n{text}"
