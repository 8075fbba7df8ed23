"""A page of the guide, typed from top to bottom in a laboratory.

    ```console               `$ ` begins a command, `\\` at its end continues it; other lines are its output
    ```python, ```yaml       with a first line `# src/model/model01/trees.py`, the block becomes that file
    <!-- not run: why -->    the console block below it is only shown
    <!-- run: command -->    a command that a reader need not type

Of output, `…` stands for anything, and numbers may differ. The id or name of a run that a page shows stands for
the one that was printed, in later commands too. A command that prints `error: …` exits with 2, others with 0.
"""

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from conftest import Lab

BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>.+?) -->\n)?^```(?P<language>\w+)\n(?P<body>.*?)^```$"
    r"|^<!-- run: (?P<hidden>.+?) -->$",
    re.DOTALL | re.MULTILINE,
)
FILE = re.compile(r"# ([\w/.-]+\.\w+)\n")
COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)\n", re.MULTILINE)
PRINTED = re.compile(
    r"(?P<any>…)|(?P<id>\b[0-9a-f]{32}\b|\b[0-9a-f]{8}\b)|(?P<name>\b[a-z]+-[a-z]+-\d+\b)"
    r"|(?P<number>[-+]?\d+(?:[.,]\d+)*(?:e[-+]?\d+)?)|(?P<space>\s+)"
)
PATTERNS = {
    "any": ".*",
    "id": "([0-9a-f]{8,32})",
    "name": r"([a-z]+-[a-z]+-\d+)",
    "number": r"[-+]?\d[\d.,]*(?:e[-+]?\d+)?",
    "space": r"\s+",
}


@dataclass(frozen=True)
class Command:
    """What is typed, and the lines of output that a page shows."""

    text: str
    output: list[str] = field(default_factory=list)
    reason: str | None = None  # why it is not run


@dataclass(frozen=True)
class File:
    """A file that a page shows whole."""

    path: str
    text: str


def steps(page: str) -> list[Command | File]:
    """What a page asks its reader to do, in order."""
    found: list[Command | File] = []
    for block in BLOCK.finditer(page):
        body = block["body"] or ""
        if block["hidden"]:
            found.append(Command(block["hidden"]))
        elif block["language"] == "console":
            found += console(body, block["reason"])
        elif first := FILE.match(body):
            found.append(File(first[1], body))
    return found


def console(body: str, reason: str | None) -> list[Command]:
    """The commands of a block, each with its output."""
    before, *parts = COMMAND.split(body)
    assert not before, f"a console block begins with output: {before}"
    outputs = ([line for line in text.splitlines() if line.strip()] for text in parts[1::2])
    return [Command(text, shown, reason) for text, shown in zip(parts[::2], outputs, strict=True)]


@dataclass
class Reader:
    """Someone at a terminal in a laboratory."""

    lab: Lab
    folder: Path  # where they are
    environment: dict[str, str]
    printed: dict[str, str] = field(default_factory=dict)  # by the ids and names that the page shows

    def do(self, step: Command | File) -> None:
        """Take one step."""
        if isinstance(step, File):
            file = self.folder / step.path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(step.text)
        elif step.reason is not None:
            return
        elif step.text.startswith("cd "):
            self.folder = (self.folder / step.text.removeprefix("cd ")).resolve()
        else:
            self.compare(step, self.type(step))

    def type(self, command: Command) -> str:
        """All that a command printed, if it ended as the page says."""
        text = command.text
        for shown, real in self.printed.items():
            text = re.sub(rf"\b{shown}\b|\b{shown[:8]}\b(?!-)", real[: max(8, len(shown))], text)
        process = self.lab.start(
            *("bash", "-c", text), cwd=self.folder, PYTHONPATH=str(self.folder), **self.environment
        )
        out, err = process.communicate(timeout=240)
        expected = 2 if any(line.startswith("error: ") for line in command.output) else 0
        assert process.returncode == expected, f"$ {text}\n{out}{err}"
        return out + err

    def compare(self, command: Command, answer: str) -> None:
        """Each line that a page shows was printed, in this order."""
        lines = iter(answer.splitlines())
        for shown in command.output:
            pattern = re.compile(as_pattern(shown.strip()))
            found = next((match for line in lines if (match := pattern.fullmatch(line.strip()))), None)
            assert found, f"$ {command.text}\nnever printed: {shown}\n{answer}"
            self.printed |= dict(zip(run_names(shown), found.groups(), strict=True))


def as_pattern(line: str) -> str:
    """What a shown line may be in fact."""
    kinds, end, pattern = list(PRINTED.finditer(line)), 0, ""
    for match in kinds:
        pattern += re.escape(line[end : match.start()]) + PATTERNS[str(match.lastgroup)]
        end = match.end()
    return pattern + re.escape(line[end:])


def run_names(line: str) -> list[str]:
    """The ids and names of runs in a shown line."""
    return [match[0] for match in PRINTED.finditer(line) if match.lastgroup in ("id", "name")]
