"""A page of the guide, typed from top to bottom in a laboratory.

    ```console               `$ ` begins a command, `\\` at its end continues it; other lines are its output
    ```python, ```yaml       with a first line `# src/model/model01/trees.py`, the block becomes that file
    <!-- not run: why -->    the console block below it is only shown
    <!-- run: command -->    a command that a reader need not type

Of output, `…` stands for anything, numbers may differ, and lines may be left out. The id or name of a run
that a page shows stands for the one that was printed, in later commands too. A line `^C` presses Ctrl-C when
the lines above it are there; the command then exits with 130, one that prints `error: …` with 2, others
with 0.
"""

import os
import re
import signal
from collections.abc import Iterable
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
    r"(?P<any>…)|(?P<study>\b(?:\d\d-){4}[\w+]+-[0-9a-f]{4}\b)"
    r"|(?P<id>\b[0-9a-f]{32}\b|\b[0-9a-f]{8}\b)|(?P<name>\b[a-z]+-[a-z]+-\d+\b)"
    r"|(?P<time>(?<!\w)\d+ s\b)|(?P<number>(?<!\w)[-+]?\d+(?:[.,]\d+)*(?:e[-+]?\d+)?)|(?P<space>\s+)"
)
ID_LENGTH = 32
PATTERNS = {
    "any": ".*",
    "study": r"((?:\d\d-){4}\S+-[0-9a-f]{4})",
    "id": "([0-9a-f]{8,32})",
    "name": r"([a-z]+-[a-z]+-\d+)",
    "number": r"[-+]?\d[\d.,]*(?:e[-+]?\d+)?",
    "time": r"\d[\d.]* (?:s|min|h)(?: \d+ \w+)*",
    "space": r"\s+",
}


@dataclass(frozen=True)
class Command:
    """What is typed, and the lines of output that a page shows."""

    text: str
    output: list[str] = field(default_factory=list)
    reason: str | None = None  # why it is not run

    @property
    def exit_code(self) -> int:
        """What it must end with."""
        is_refused = any(line.startswith("error: ") for line in self.output)
        return 130 if "^C" in self.output else 2 if is_refused else 0


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
    lines = (text.splitlines() for text in parts[1::2])
    outputs = ([line for line in output if line.strip() not in ("", "…")] for output in lines)
    return [Command(text, shown, reason) for text, shown in zip(parts[::2], outputs, strict=True)]


@dataclass
class Reader:
    """Someone at a terminal in a laboratory."""

    lab: Lab
    folder: Path  # where they are
    environment: dict[str, str]
    printed: dict[str, str] = field(default_factory=dict)  # by the ids and names on the page

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
            self.type(step)

    def type(self, command: Command) -> None:
        """Type a command, and read what it prints: the lines that the page shows, in this order."""
        text = command.text
        for shown, real in self.printed.items():
            text = text.replace(shown, real)
            if len(shown) == ID_LENGTH:
                text = re.sub(rf"\b{shown[:8]}\b", real[:8], text)
        process = self.lab.start(
            *("bash", "-c", f"exec 2>&1\n{text}"),
            cwd=self.folder,
            PYTHONPATH=str(self.folder),
            **self.environment,
        )
        with process:
            assert process.stdout
            said: list[str] = []
            for line in command.output:
                if line == "^C":
                    os.killpg(process.pid, signal.SIGINT)
                elif not self.reads(line, process.stdout, said):
                    raise AssertionError(f"$ {text}\nnever printed: {line}\n{''.join(said)}")
            said += process.stdout
        assert process.returncode == command.exit_code, f"$ {text}\n{''.join(said)}"

    def reads(self, shown: str, stream: Iterable[str], said: list[str]) -> bool:
        """Read on, up to a line that the page shows."""
        pattern = re.compile(as_pattern(shown.strip()))
        for line in stream:
            said.append(line)
            if match := pattern.fullmatch(line.strip()):
                self.printed |= dict(zip(run_names(shown), match.groups(), strict=True))
                return True
        return False


def as_pattern(line: str) -> str:
    """What a shown line may be in fact."""
    kinds, end, pattern = list(PRINTED.finditer(line)), 0, ""
    for match in kinds:
        pattern += re.escape(line[end : match.start()]) + PATTERNS[str(match.lastgroup)]
        end = match.end()
    return (pattern + re.escape(line[end:])).replace("│", "[│┃]")


def run_names(line: str) -> list[str]:
    """The ids and names of runs and studies in a shown line."""
    return [
        match[0] for match in PRINTED.finditer(line) if match.lastgroup in ("study", "id", "name")
    ]
