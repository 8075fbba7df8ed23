"""AGENTS.md, the rules of the house: short, and each command and file that it names is there."""

import re

import pytest
from conftest import ROOT, Lab

PAGE = ROOT / "AGENTS.md"


@pytest.mark.skipif(not PAGE.exists(), reason="this project has no AGENTS.md")
def test_page(clone: Lab) -> None:
    """The page has under 80 lines; what it says to type exists."""
    text = PAGE.read_text()
    assert len(text.splitlines()) < 80
    paths = re.findall(r"(?:scripts|docs|config|src)/[\w./]+\w", text)
    known = [path for path in paths if not re.search(r"model0[2-9]", path)]
    assert [path for path in known if not (ROOT / path).exists()] == []
    commands = set(re.findall(r"\blab (\w+)", text)) - {"lists"}
    listed = clone.question("-m", "src.utils.lab.cli", "--help").text
    assert [one for one in commands if not re.search(rf"\b{one}\b", listed)] == []


def test_other_names() -> None:
    """Programs that look for CLAUDE.md are led to the same page."""
    assert (ROOT / "CLAUDE.md").read_text() == "@AGENTS.md\n"
