"""docs/reference: the pages are what scripts/make_reference.py writes, and nothing is missing in them."""

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from src.utils.config.json_schema import TIERS, tier_comments, tier_values
from src.utils.settings import Settings

import pytest
from conftest import PROJECT, ROOT

SCRIPT = ROOT / "scripts" / "make_reference.py"
PAGES = ROOT / "docs" / "reference"
PROGRAMS = sorted([*PROJECT.rglob("*.py"), *(ROOT / "tests" / "examples").glob("*.py")])


@pytest.fixture(scope="module", name="script")
def a_script() -> ModuleType:
    """scripts/make_reference.py as a module."""
    spec = spec_from_file_location("make_reference", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_are_up_to_date(script: ModuleType) -> None:
    """Each page of the reference says what the code says."""
    pages = script.pages()
    assert sorted(pages) == sorted(file.name for file in PAGES.glob("*.md"))
    old = [name for name, text in pages.items() if (PAGES / name).read_text() != text]
    assert old == [], "type .venv/bin/python scripts/make_reference.py"


@pytest.mark.parametrize("page", ["settings.md", "run.md", "lab.md"])
def test_pages_read_well(page: str) -> None:
    """No page has an empty description or two headings of one name, to which no link could lead."""
    text = (PAGES / page).read_text()
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    assert len(headings) == len({*headings}) > 10
    assert re.findall(r"^- .*: *\.?$", text, re.MULTILINE) == []


@pytest.mark.parametrize("tier", TIERS)
def test_settings_are_described(tier: type[Settings]) -> None:
    """Each shared setting has a value in config/utils, and a comment beside it that says what it does."""
    named = {name.partition(".")[0] for name in tier_values(tier)}
    assert {*tier.model_fields} <= named
    assert {*tier_values(tier)} - {*tier_comments(tier)} == set()


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda file: str(file.relative_to(ROOT)))
def test_what_experiments_import_is_described(program: Path) -> None:
    """What an experiment imports from src.utils has a section."""
    imports = re.findall(r"^from src\.utils\.(\S+) import (.*)$", program.read_text(), re.MULTILINE)
    text = (PAGES / "run.md").read_text()
    for module, names in imports:
        assert f"## `src.utils.{module}`" in text or module == "run"
        assert [name for name in names.split(", ") if f"## `{name}`" not in text] == []
