"""`lab report`: one file about some runs, which says what they say and can be read anywhere."""

import sqlite3
import time
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import Browser, a_browser  # noqa: F401  a fixture
from conftest import Lab
from groups import add_group
from laboratory import refused, said
from scripted import document, scripted  # noqa: F401  a fixture
from test_lab_for_programs import documented_keys
from test_leaderboard import Store

LOADING = ("src", "href", "xlink:href", "srcset", "data", "action", "poster")  # attributes
NASTY = "<script>alert(1)</script> & 'quoted' \"twice\" 日本語 --> </style>"
WIDE = (
    "[...document.querySelectorAll('body *')].filter(one => !one.closest('svg'))"
    ".filter(one => one.getBoundingClientRect().right > innerWidth + 1)"
    ".map(one => one.outerHTML.slice(0, 200))"
)


class Page(HTMLParser):
    """What a browser finds in a page."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.source = file.read_text()
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.text, self.rows = "", list[list[str]]()
        self.is_in_cell = False
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in LOADING]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.is_in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.is_in_cell = False
            self.text += " "

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] != ["style"]:
            self.text += data
        if self.is_in_cell:
            self.rows[-1][-1] += data

    def words(self) -> str:
        return " ".join(self.text.split())

    def row(self, word: str) -> list[str]:
        """The cells of the one row that has a word in its first cell."""
        (found,) = [row for row in self.rows if row and word in row[0].replace("*", " ").split()]
        return [" ".join(cell.split()) for cell in found]


def check_is_alone(page: Page) -> None:
    """It loads nothing, and runs nothing."""
    assert not {*page.tags} & {"script", "link", "iframe", "object", "embed", "base", "form"}
    assert all(one.startswith(("data:image/", "#")) for one in page.loaded)
    assert "@import" not in page.source
    assert page.source.count("url(") == page.source.count("url(#")


@pytest.fixture(name="store", scope="module")
def a_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("report") / "mlflow.db")


@pytest.fixture(scope="module", name="everything")
def a_report_on_everything(scripted: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A report on two experiments, with a study and runs that ended in every way."""
    file = tmp_path_factory.mktemp("report") / "report.html"
    text = said(scripted, "report", "model94", "model01", "--out", file)
    assert "1 study" in text
    return file


def test_the_page(scripted: Lab, everything: Path) -> None:  # noqa: F811
    """The page has all runs with their state and reason, the notes, the objective, what a study searched,
    curves, pictures, data with their makers, code, machine, and commands that repeat each run."""
    page, words = Page(everything), Page(everything).words()
    check_is_alone(page)
    runs = document(scripted, "runs", "--limit", "0")
    for run in runs:
        if "optuna.study" not in run["tags"] or "optuna.trial" in run["tags"]:
            assert page.row(run["id"][:8])
    assert {"failed", "killed", "pruned"} <= {cell for row in page.rows for cell in row}
    assert "MemoryError" in words
    assert "maximize val_score" in words or "minimize val_score" in words
    assert "rate 0.2, 0.4" in words
    for run in runs:
        assert run["experiment"] in words
        assert run["params"].get("note") is None or run["params"]["note"][:50] in words
    assert page.tags.count("svg") > 4
    best = document(scripted, "best", "model01")
    for used in best["data"]:
        assert f"{used['name']} {used['digest'][:16]}" in words
    assert f"lab rerun {best['id'][:8]}" in words
    assert best["commit"][:12] in words
    assert "packages in all" in words


def test_what_differs(scripted: Lab, tmp_path: Path) -> None:  # noqa: F811
    """The table has the objective first, then only the settings that differ; the best run is marked, and
    comes first."""
    file = tmp_path / "report.html"
    found = document(scripted, "report", "model94", "--out", file)
    assert {*found} == documented_keys("report")
    best = document(scripted, "best", "model94")
    assert (found["best"], found["runs"][0]) == (best["id"], best["id"])
    page = Page(file)
    head = page.row("run")
    assert head[1] == "val_score"
    assert {"rate", "hidden", "end"} <= {*head}
    assert not {"layers", "monitor", "note", "warm_start"} & {*head}
    assert page.row("best")[1] == f"{best['metrics']['val_score']:.4f}"
    assert [row[0] for row in page.rows].count(page.row("best")[0]) == 1


def test_newest_model(scripted: Lab, tmp_path: Path) -> None:  # noqa: F811
    """Without a name it is about the newest runs of the newest model; a study brings its trials, and two
    runs what differs between them."""
    file = tmp_path / "report.html"
    newest = document(scripted, "runs")[0]
    found = document(scripted, "report", "--limit", "2", "--out", file)
    assert len(found["runs"]) == 2
    assert newest["id"] in found["runs"] + found["studies"]
    assert "What differs" in Page(file).words()
    study = next(run for run in document(scripted, "runs") if run["id"] in found["studies"])
    said(scripted, "report", study["name"], "--out", file)
    assert "4 trials" in Page(file).words()


def test_groups(clone: Lab, store: Store, tmp_path: Path) -> None:
    """Groups have mean and spread, a verdict, and those that can't be told from the best are marked."""
    scores = {(fold, 0): 0.9 + fold / 100 for fold in range(5)}
    spread = {place: value + 0.003 + place[0] / 9e3 for place, value in scores.items()}
    add_group(store, "old", scores, digest="a" * 32)
    add_group(store, "new", spread, digest="a" * 32, params={"hidden": "64"})
    add_group(store, "$a$", {**spread, (0, 0): 0.91, (1, 0): 0.9}, digest="a" * 32)
    file = tmp_path / "report.html"
    said(clone, "report", "one", "--out", file, MLFLOW_TRACKING_URI=store.uri)
    page = Page(file)
    assert page.row("new")[1].startswith("0.9232 ± 0.01")
    assert page.row("$a$")[1].startswith("≈ ")
    assert "new is better: +0.0032 ± 0.000" in page.words()
    assert page.tags.count("svg") == 1


def test_escaping(clone: Lab, store: Store, tmp_path: Path) -> None:
    """Whatever people type stands in the page as they have typed it, and is no part of it."""
    for value in ("1", "2"):
        store.add(
            "model/typed",
            f"{NASTY} {value}",
            {"val acc": float(value)},
            {"text": f"{NASTY} {value}", "resume_run": "None"},
            mlflow_note_content=f"{NASTY} {value}",
            monitor="val acc max",
        )
    file = tmp_path / "日本 <語>.html"
    said(clone, "report", "typed", "--out", file, MLFLOW_TRACKING_URI=store.uri)
    page = Page(file)
    check_is_alone(page)
    assert page.words().count(NASTY) >= 6
    assert page.row("run")[1:3] == ["val acc", "text"]


COPY = """
CREATE TEMP TABLE copy AS SELECT * FROM {table} WHERE run_uuid = '{run}';
UPDATE copy SET run_uuid = 'f{number:031}';
INSERT INTO {table} SELECT * FROM copy; DROP TABLE copy;
"""
CURVES = """
WITH RECURSIVE steps(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM steps WHERE n < 1000)
INSERT INTO metrics SELECT key, abs(random() % 1000) / 1e3, n, run_uuid, n, 0 FROM latest_metrics, steps
WHERE n <= CASE WHEN key LIKE '%_0' THEN 1000 ELSE 2 END
"""


def test_many_runs(clone: Lab, store: Store, tmp_path: Path) -> None:
    """Fifty runs with curves of a thousand steps take seconds and less than 2 MB; it says what it lacks."""
    names = [f"{part}_{number}" for part in ("train", "val") for number in range(8)]
    metrics = dict.fromkeys(names, 0.5)
    run = store.add("model/many", "run", metrics, {"x": "1"}, monitor="val_0 max")
    with closing(sqlite3.connect(store.uri.removeprefix("sqlite:///"))) as database, database:
        for number in range(49):
            for table in ("runs", "params", "tags", "latest_metrics"):
                database.executescript(COPY.format(table=table, number=number, run=run))
        database.execute(CURVES)
    file, start = tmp_path / "report.html", time.monotonic()
    text = said(
        clone, "report", "many", "--limit", "0", "--out", file, MLFLOW_TRACKING_URI=store.uri
    )
    assert time.monotonic() - start < 60  # 5 on an idle machine
    assert file.stat().st_size < 2_000_000
    for words in (
        "50 runs",
        "12 charts",
        "left out: most points of long curves",
        "curves of 4 more",
    ):
        assert words in text
    assert "Left out: most points of long curves" in Page(file).words()


def test_mistakes(scripted: Lab, tmp_path: Path) -> None:  # noqa: F811
    """A mistake is one line, found before the work; a report that is there stays, and nothing is left
    beside it."""
    file = tmp_path / "report.html"
    file.write_text("old")
    (tmp_path / "folder.html").mkdir()
    for arguments, reason in {
        ("nowhere", "--out", file): "there is no run 'nowhere'",
        ("--out", tmp_path / "missing" / "x.html"): "make it first",
        ("--out", tmp_path / "x.txt"): "ends with .html",
        ("--out", tmp_path / "folder.html"): "can't be written",
        ("--out", "/proc/x.html"): "can't be written",
        (): "Missing option '--out'",
    }.items():
        assert reason in refused(scripted, "report", *arguments)
    assert file.read_text() == "old"
    assert {one.name for one in tmp_path.iterdir()} == {"report.html", "folder.html"}
    missing = f"sqlite:///{tmp_path}/none.db"
    done = refused(scripted, "report", "--out", file, MLFLOW_TRACKING_URI=missing)
    assert "there are no runs yet" in done


@pytest.mark.parametrize(
    ("width", "media"), [(375, "screen"), (700, "print")], ids=["phone", "paper"]
)
def test_narrow(everything: Path, browser: Browser, width: int, media: str) -> None:
    """On a phone and on paper nothing is wider than the page."""
    browser.resize(width, 2000, media)
    browser.open(everything.as_uri())
    browser.see(f"innerWidth == {width} && document.querySelectorAll('svg').length > 4")
    assert browser.see(f"JSON.stringify({WIDE})") == "[]"
