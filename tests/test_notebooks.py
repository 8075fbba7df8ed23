"""The notebooks run from top to bottom, from wherever they are opened."""

import csv
import shutil
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT, Lab
from mnist import FEATURE, a_clone, a_fresh_one, a_trained_one, needed  # noqa: F401  fixtures

pytestmark = needed
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
RUN = """
    import nbclient, nbformat
    notebook = nbformat.read("{file}", as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={{"metadata": {{"path": "{where}"}}}}).execute()
    nbformat.write(notebook, "{file}")
"""


def outputs(file: Path) -> list[nbformat.NotebookNode]:
    notebook = nbformat.read(file, as_version=4)
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def pictures(file: Path) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(file))


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_committed_notebooks(file: Path) -> None:
    """Notebooks are committed without outputs, with their parameters in a tagged cell."""
    notebook = nbformat.read(file, as_version=4)
    assert outputs(file) == []
    assert not [cell for cell in notebook.cells if cell.get("execution_count")]
    assert [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert notebook.metadata.kernelspec.name == "python3"


def test_load_model(fresh_mnist: Lab) -> None:
    """load_model.ipynb reloads the newest run, shows its errors, and writes its predictions to a file."""
    file = fresh_mnist.root / "notebooks/load_model.ipynb"
    fresh_mnist.python(RUN.format(file=file, where=file.parent))
    run = fresh_mnist.newest()
    assert pictures(file) == 2
    assert any(run.info.run_id in output.get("text", "") for output in outputs(file))
    (table,) = (fresh_mnist.root / "outputs").rglob("*.csv")
    with table.open() as lines:
        rows = list(csv.DictReader(lines))
    right = sum(row["label"] == row["predicted"] for row in rows)
    assert right / len(rows) == pytest.approx(run.data.metrics["test_acc"])
    assert "OTHER DATA" not in file.read_text()


def test_data_of_an_old_run(fresh_mnist: Lab) -> None:
    """load_model.ipynb reads the data of the run. Where they are gone and can't be rebuilt, it reads
    those of today, says why, and what differs."""
    fresh_mnist.done(FEATURE, "val_fraction=0.2")
    file = fresh_mnist.root / "notebooks/load_model.ipynb"
    fresh_mnist.python(RUN.format(file=file, where=file.parent))
    assert "OTHER DATA" not in file.read_text()
    run, feature = fresh_mnist.newest(), fresh_mnist.runs("feature/feature01")[-1]
    (one,) = run.inputs.dataset_inputs
    shutil.rmtree(fresh_mnist.root / "_data/versions/feature/feature01" / one.dataset.digest)
    (fresh_mnist.artifacts(feature) / "provenance/metadata.json").write_text("{}")
    fresh_mnist.python(RUN.format(file=file, where=file.parent))
    said = "".join(output.get("text", "") for output in outputs(file))
    assert f"OTHER DATA: today's feature/feature01, not that of run {run.info.run_id[:8]}" in said
    assert f"run {feature.info.run_id[:8]} was not made in a git repository" in said
    assert "val_fraction=0.1 then, 0.2 today" in said


def test_eda(fresh_mnist: Lab) -> None:
    """eda.ipynb draws the classes, their images and their pixels, from the root of the repository too."""
    file = fresh_mnist.root / "notebooks/eda.ipynb"
    fresh_mnist.python(RUN.format(file=file, where=fresh_mnist.root))
    assert pictures(file) == 4
    assert any("4500" in output.get("data", {}).get("text/plain", "") for output in outputs(file))
