"""One thing that was looked at by `lab doctor`, how it is, and how to mend it."""

from dataclasses import dataclass

from rich import get_console
from rich.markup import escape

MARKS = {"good": "[green]✓[/]", "warning": "[yellow]![/]", "bad": "[red]✗[/]"}


@dataclass(frozen=True)
class Symptom:
    """What was looked at, how it is, and what to do where it isn't well."""

    subject: str
    said: str
    mend: str = ""
    level: str = "good"

    @classmethod
    def bad(cls, subject: str, said: str, mend: str) -> "Symptom":
        return cls(subject, said, mend, "bad")

    @classmethod
    def warning(cls, subject: str, said: str, mend: str) -> "Symptom":
        return cls(subject, said, mend, "warning")

    def say(self) -> None:
        console = get_console()
        line = f"{MARKS[self.level]} [bold]{self.subject:9}[/] {escape(self.said)}"
        console.print(line, highlight=False, soft_wrap=True)
        if self.mend:
            console.print(f"            → {escape(self.mend)}", highlight=False, soft_wrap=True)
