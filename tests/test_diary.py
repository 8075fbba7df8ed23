"""`lab diary`: the report of a day's runs, beside the text of its reader."""

import re
from datetime import datetime, timedelta
from pathlib import Path
from statistics import mean, stdev

from conftest import MODEL, QUICK, Lab
from laboratory import SEEDS, a_changeable_one, a_laboratory, refused, said  # noqa: F401  fixtures
from test_lab import history
from test_leaderboard import Store


def page(lab: Lab, days_ago: int = 0) -> Path:
    return lab.root / "diary" / f"{datetime.now() - timedelta(days=days_ago):%Y-%m-%d}.md"


def test_report(changeable: Lab) -> None:
    """Runs are listed by note, with overrides, mean ± sd over seeds, the best run and failures."""
    runs = history(changeable)
    changeable.client.create_run(changeable.client.create_experiment("of another tool"))
    said(changeable, "diary")
    text = page(changeable).read_text()
    assert "another tool" not in text
    values = [runs[f"seed {seed}"].data.metrics["val_acc"] for seed in (1, 2)]
    (row,) = [
        line for line in text.splitlines() if f"{mean(values):.4f} ± {stdev(values):.4f}" in line
    ]
    assert "| 2 " in row
    for setting in ("network=mlp", "hidden=32", "max_epochs=2"):
        assert setting in row
    assert "learning_rate" not in row  # the default
    assert f"**{SEEDS}** #seeds" in text
    assert "learning_rate=0.01" in text
    done = [run for run in runs.values() if run.data.tags.get("optuna.state") != "pruned"]
    best = re.search(r"- best: (\w+) .*lab rerun \1", text)
    assert best is not None
    accuracies = {run.info.run_id[:8]: run.data.metrics.get("val_acc", 0.0) for run in done}
    assert accuracies[best[1]] == max(accuracies.values())
    for part in (
        *(f"- failed: {runs['doomed'].info.run_id[:8]}", "allocate"),
        *(f"- sweep {runs['study'].info.run_name}: «search» 3 trials", "over learning_rate"),
    ):
        assert part in text


def test_links(changeable: Lab) -> None:
    """Figures are linked by paths relative to the diary."""
    said(changeable, "diary")
    links = re.findall(r"\]\((.*?)\)", page(changeable).read_text())
    assert any("confusion_matrix" in link for link in links)
    assert any("optimization_history" in link for link in links)
    assert all((changeable.root / "diary" / link).is_file() for link in links)


def test_own_text_is_kept(changeable: Lab) -> None:
    """When the report is written again, every byte outside its marks stays as it is."""
    said(changeable, "diary")
    first = page(changeable).read_text()
    assert [
        h for h in ("What was tried", "What was learnt", "What to try next") if h not in first
    ] == []
    marks = re.compile(r"(<!-- facts since .*?-->.*?<!-- end of facts -->)", re.DOTALL)
    before, metadata, after = marks.split(first)
    mine = (f"{before}Above, by hand.\r\n\n", f"{after}- 学習率を上げると速い\n\n| a | table |\n")
    page(changeable).write_bytes((mine[0] + metadata + mine[1]).encode())
    for _ in range(2):
        said(changeable, "diary")
        above, _, below = marks.split(page(changeable).read_bytes().decode())
        assert (above, below) == mine


def test_page_without_report(changeable: Lab) -> None:
    """A page without a report gets it below the title, and is otherwise unchanged."""
    page(changeable).parent.mkdir(exist_ok=True)
    page(changeable).write_text("# Monday\n\nIt rains.\n")
    said(changeable, "diary")
    text = page(changeable).read_text()
    assert text.startswith("# Monday\n\n<!-- facts since")
    assert text.endswith("<!-- end of facts -->\n\nIt rains.\n")


def test_lost_mark(changeable: Lab) -> None:
    """Without the end mark, nothing is replaced, and the page stays as it is."""
    said(changeable, "diary")
    broken = page(changeable).read_text().replace("<!-- end of facts -->", "")
    page(changeable).write_text(broken)
    assert "put it back" in refused(changeable, "diary")
    assert page(changeable).read_text() == broken


def test_since_the_last_entry(changeable: Lab) -> None:
    """A new page reports the runs that ended since the previous page was written, and none twice."""
    said(changeable, "diary")
    page(changeable).rename(page(changeable, days_ago=1))
    yesterday = page(changeable, days_ago=1).read_text()
    changeable.done(MODEL, *QUICK, "hidden=16", "note=smaller")
    text = said(changeable, "diary")
    assert "Runs since" in text
    assert "**smaller**" in text
    assert SEEDS not in text
    assert SEEDS not in page(changeable).read_text()
    changeable.done(MODEL, *QUICK, "hidden=8", "note=smallest")
    again = said(changeable, "diary")  # a refreshed page still begins where it began
    assert "**smaller**" in again
    assert "**smallest**" in again
    assert page(changeable, days_ago=1).read_text() == yesterday


def test_table_is_aligned(changeable: Lab) -> None:
    """The columns of a table are aligned in plain text."""
    tables = re.findall(r"(?:^\|.*\|\n)+", said(changeable, "diary"), re.MULTILINE)
    assert tables
    for table in tables:
        bars = {tuple(m.start() for m in re.finditer(r"\|", line)) for line in table.splitlines()}
        assert len(bars) == 1


def test_deleted_experiment(bare: Lab, tmp_path: Path) -> None:
    """Runs of an experiment whose config is deleted are listed with the params that vary, repeated or not."""
    store = Store(tmp_path / "mlflow.db")
    for rate in ("0.1", "0.1", "0.2"):
        store.add("model/deleted", "run", {"val_acc": 0.5}, {"learning_rate": rate})
    text = said(bare, "diary", MLFLOW_TRACKING_URI=store.uri)
    assert "learning_rate=0.1" in text
    assert "learning_rate=0.2" in text
