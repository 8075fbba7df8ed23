"""A result of one check of `lab doctor`: what was found, and how to fix it."""

from collections.abc import Iterable
from dataclasses import dataclass

from rich import get_console
from rich.markup import escape

MARKS = {"good": "[green]✓[/]", "warning": "[yellow]![/]", "bad": "[red]✗[/]"}


@dataclass(frozen=True)
class Finding:
    """One line of the report: `✓ python    3.12.4`, with the fix below where one is needed."""

    subject: str
    message: str
    fix: str = ""
    level: str = "good"  # or warning, bad

    @classmethod
    def bad(cls, subject: str, message: str, fix: str) -> "Finding":
        return cls(subject, message, fix, "bad")

    @classmethod
    def warning(cls, subject: str, message: str, fix: str) -> "Finding":
        return cls(subject, message, fix, "warning")

    def as_dict(self) -> dict[str, str | None]:
        """The finding as `lab doctor --json` prints it."""
        return {
            "level": self.level,
            "subject": self.subject,
            "text": self.message,
            "fix": self.fix or None,
        }

    def print(self) -> None:
        """Print the line and the fix."""
        console = get_console()
        line = f"{MARKS[self.level]} [bold]{self.subject:9}[/] {escape(self.message)}"
        console.print(line, highlight=False, soft_wrap=True)
        if self.fix:
            console.print(f"            → {escape(self.fix)}", highlight=False, soft_wrap=True)


def print_findings(findings: Iterable[Finding]) -> None:
    """Print the findings in their order."""
    for finding in findings:
        finding.print()
