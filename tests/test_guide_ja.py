"""The guide in Japanese: page.ja.md has what page.md has, whose commands tests/test_guide.py types."""

import re
from pathlib import Path

import pytest
from conftest import ROOT
from guide import FILE
from test_guide import TRANSLATED, name

ENGLISH_ONLY = ("decisions.md",)  # and docs/reference, which is generated
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
HIDDEN = re.compile(r"^<!-- .* -->$", re.MULTILINE)
COMMENT = re.compile(r"(?:^| +)# .*$", re.MULTILINE)
LABEL = re.compile(r'\["[^"]*"\]')
PAIRS = pytest.mark.parametrize(("page", "english"), TRANSLATED.items(), ids=name)


def prose(page: Path) -> str:
    """A page without its blocks."""
    return HIDDEN.sub("", BLOCK.sub("", page.read_text()))


def untranslated(language: str, body: str) -> str:
    """A block without its comments, a picture without its labels; nothing of a sketch in no language."""
    if not language:
        return ""
    if language == "mermaid":
        return LABEL.sub("", body)
    first = FILE.match(body)
    return (first[0] if first else "") + COMMENT.sub("", body)


def test_pages() -> None:
    """Each page that users read is there in Japanese."""
    pages = [page for page in (ROOT / "docs").glob("*.md") if page not in TRANSLATED]
    missing = {page.name for page in pages if page not in TRANSLATED.values()}
    assert missing <= set(ENGLISH_ONLY)


@PAIRS
def test_blocks(page: Path, english: Path) -> None:
    """Commands, their output, programs and settings are those of the English page, but for comments."""
    ours, theirs = (BLOCK.findall(one.read_text()) for one in (page, english))
    assert [untranslated(*block) for block in ours] == [untranslated(*block) for block in theirs]
    assert HIDDEN.findall(page.read_text()) == HIDDEN.findall(english.read_text())


@PAIRS
def test_structure(page: Path, english: Path) -> None:
    """Headings, and tables with their rows, follow each other as in the English page."""
    parts = re.compile(r"^(?:#+ |\|(?=.*\|$))", re.MULTILINE)
    assert parts.findall(prose(page)) == parts.findall(prose(english))


@PAIRS
def test_names(page: Path, english: Path) -> None:
    """What the English page sets in `code` is in the Japanese one, and nothing else."""

    def names(text: str) -> set[str]:
        return {" ".join(code.split()) for code in re.findall("`([^`]+)`", text)}

    assert names(prose(page)) == names(prose(english))


@PAIRS
def test_targets(page: Path, english: Path) -> None:
    """Links and pictures are those of the English page, to pages in Japanese where there are any."""

    def targets(text: str) -> list[str]:
        return [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]

    def in_japanese(link: str) -> str:
        other = (english.parent / link).with_suffix(".ja.md")
        return link.replace(".md", ".ja.md") if other in TRANSLATED else link

    found = [link for link in targets(prose(page)) if link != english.name]  # the other language
    wanted = [in_japanese(link) for link in targets(prose(english)) if link != page.name]
    assert sorted(found) == sorted(wanted)
