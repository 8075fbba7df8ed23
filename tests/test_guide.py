"""The guide: each page is typed in a laboratory, and the site is built of all of them."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from src.utils.lab.cli import lab as lab_program

import pytest
from browser import PROGRAMS, Browser
from conftest import ROOT, Lab, carry, commit, made_once
from guide import Command, File, Reader, steps
from mnist import DATASET, FEATURE, MODEL
from typer.main import get_command

PAGES = [*ROOT.glob("README*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
TRANSLATED = {
    page: page.with_suffix("").with_suffix(".md") for page in PAGES if ".ja." in page.name
}
TYPED = [page for page in PAGES if page not in TRANSLATED and any(steps(page.read_text()))]
LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src"}  # by a browser, unasked
POETRY = '#!/bin/sh\nshift; program=$1; shift; exec "{bin}/$program" "$@"\n'

needed = pytest.mark.skipif(
    not (ROOT / MODEL).exists(), reason="the worked example was removed from this project"
)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="session", name="guide")
def a_laboratory(shared: Path) -> Lab:
    """This repository with the features of its examples, and a run of one model. To be read only."""

    def make(lab: Lab) -> None:
        tracked = Lab(ROOT).git("ls-files", ":!tests", ":!benchmarks").splitlines()
        carry([one for one in tracked if (ROOT / one).exists()], lab.root)
        commit(lab)
        lab.done(DATASET, "source=sample")
        lab.done(FEATURE)
        lab.done("src/feature/feature02/bike_hours.py")
        lab.done(MODEL, "network=mlp", "max_epochs=1")

    return made_once(shared / "guide", make)


@pytest.fixture(name="reader")
def a_reader(guide: Lab, tmp_path: Path) -> Reader:
    """Someone in a copy, with an empty home and Poetry on the PATH."""
    lab = guide.copied(tmp_path / "lab")
    programs, home = tmp_path / "bin", tmp_path / "home"
    programs.mkdir()
    home.mkdir()
    poetry = programs / "poetry"
    poetry.write_text(POETRY.format(bin=Path(sys.prefix) / "bin"))
    poetry.chmod(0o755)
    roles = ("GIT_AUTHOR", "GIT_COMMITTER")
    environment = {f"{role}_{part}": "Test" for role in roles for part in ("NAME", "EMAIL")}
    environment |= {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(home),
        "XDG_CACHE_HOME": str(Path.home() / ".cache"),  # of matplotlib's fonts
        "COLUMNS": "100",
        "PYTHONUNBUFFERED": "1",
    }
    return Reader(lab, lab.root, environment)


@needed
@pytest.mark.parametrize("page", TYPED, ids=name)
def test_commands(page: Path, reader: Reader) -> None:
    """Each command that a page shows can be typed, in this order, and prints what the page shows."""
    for step in steps(page.read_text()):
        reader.do(step)


@needed
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_shown_commands(page: Path) -> None:
    """What is only shown names programs and commands of `lab` that exist, or that the page has made."""
    found = steps(page.read_text())
    made = {step.path for step in found if isinstance(step, File)}
    known = set(get_command(lab_program).commands)
    for step in found:
        if isinstance(step, Command) and step.reason:
            assert set(re.findall(r"(?:run |bin/)lab ([a-z]+)", step.text)) <= known
            files = set(re.findall(r"(?:src|scripts|notebooks)/[\w/]+\.\w+", step.text)) - made
            assert [file for file in files if not (ROOT / file).exists()] == []


@pytest.mark.parametrize("page", TRANSLATED, ids=name)
def test_translation(page: Path) -> None:
    """A page in Japanese has the commands and files of the English one, which is typed, in the same order."""

    def typed(text: str) -> list[str]:
        found = steps(text)
        return [one.path if isinstance(one, File) else uncommented(one.text) for one in found]

    assert typed(page.read_text()) == typed(TRANSLATED[page].read_text())


def uncommented(command: str) -> str:
    return re.sub(r" +# .*", "", command)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links(page: Path) -> None:
    """A link or picture of a page leads to what is there, wherever one reads it: as a file, too."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    there = [link for link in links if link and not re.match(r"https?:|mailto:", link)]
    assert [link for link in there if not (page.parent / link).exists()] == []


class Reading(HTMLParser):
    """What a page of the site loads, links to, and can be linked to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attributes}
        self.anchors.add(values.get("id", ""))
        if tag in LOADED and values.get("rel") not in ("canonical", "alternate", "next", "prev"):
            self.loaded.append(values.get(LOADED[tag], ""))
        if tag == "a":
            self.linked.append(values.get("href", ""))


@pytest.fixture(scope="session", name="site")
def a_site(shared: Path) -> Path:
    """The guide as HTML; whatever mkdocs warns of is an error."""

    def make(lab: Lab) -> None:
        command = [Path(sys.prefix) / "bin" / "mkdocs", "build", "--strict", "--site-dir", lab.root]
        environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # of what is announced for 2027
        done = subprocess.run(
            command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    return made_once(shared / "site", make).root


def test_site(site: Path) -> None:
    """The site has each page in both languages, loads nothing from elsewhere, and no link of it is broken."""
    pages = {file: Reading(file) for file in site.rglob("*.html") if file.name != "404.html"}
    english = {
        page.relative_to(ROOT / "docs").with_suffix(".html")
        for page in PAGES
        if page.parent != ROOT
    }
    expected = {one for one in english if ".ja." not in one.name}
    assert {file.relative_to(site) for file in pages} == expected | {
        Path("ja") / one for one in expected
    }
    for file, page in pages.items():
        assert [one for one in page.loaded if re.match(r"(https?:)?//", one)] == []
        for link in [*page.loaded, *page.linked]:
            address, _, anchor = unquote(link).partition("#")
            if re.match(r"\w+:", address):
                continue
            target = (file.parent / address).resolve() if address else file
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{file}: {link}"
            assert not anchor or target not in pages or anchor in pages[target].anchors, (
                f"{file}: {link}"
            )


def test_picture(site: Path) -> None:
    """The map of the engine is on the site as a picture, with each box and arrow of the text."""
    text = (ROOT / "docs/architecture.md").read_text()
    (picture,) = re.findall(
        r'<svg class="flowchart".*?</svg>', (site / "architecture.html").read_text()
    )
    assert picture.count("<rect") == len(re.findall(r'^    \w+\["', text, re.MULTILINE)) > 10
    assert picture.count('class="head"') == len(re.findall("^    .* --> ", text, re.MULTILINE)) > 10


@pytest.mark.skipif(not all(PROGRAMS.values()), reason="there is no Chromium")
def test_reading(site: Path, tmp_path: Path) -> None:
    """In a browser without a network a page can be read: text, picture, and no need to scroll sideways."""
    with Browser(tmp_path / "profile") as browser:
        browser.open(f"{site.as_uri()}/architecture.html")
        assert (
            browser.see("document.querySelector('svg.flowchart').getBoundingClientRect().width")
            > 400
        )
        assert browser.see("document.documentElement.scrollWidth <= window.innerWidth")
        browser.open(f"{site.as_uri()}/ja/index.html")
        assert browser.see("document.documentElement.lang") == "ja"
