"""MLflow's pages of the runs in a browser, served by scripts/mlflow_ui.sh."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import PROGRAMS, Browser
from conftest import MODEL, Lab

CHARTS = "[...document.querySelectorAll('.js-plotly-plot .trace')].length"


def script(lab: Lab, *arguments: str) -> subprocess.Popen[str]:
    return lab.start("bash", lab.root / "scripts/mlflow_ui.sh", *arguments)


@pytest.fixture(scope="module")
def page(lab: Lab) -> Iterator[str]:
    """The address that the script prints, while it runs; Ctrl-C ends it and its server."""
    process = script(lab)
    assert process.stdout is not None
    output = "".join(iter(lambda: process.stdout.read(1), ")"))  # type: ignore[union-attr]
    found = re.search(r"http://127\.0\.0\.1:\d+/\S+", output)
    assert found, output
    yield found[0]
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert errors == ""


@pytest.fixture(scope="module")
def address(page: str) -> str:
    """The address that all pages begin with."""
    return page.split("/#", maxsplit=1)[0]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    missing = [name for name, path in PROGRAMS.items() if path is None]
    if missing and os.environ.get("CI") == "true":
        pytest.fail(f"{' and '.join(missing)} are not installed")
    if missing:
        pytest.skip(f"looking at pages needs {' and '.join(missing)}")
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def shows(text: str) -> str:
    return f"document.body.innerText.includes('{text}')"


def test_opened_page(lab: Lab, page: str, browser: Browser) -> None:
    """The page of the printed address lists the newest model's runs with objective, settings and notes; its
    charts begin with the objective and end with system metrics."""
    run = lab.newest().info
    browser.open(page)
    browser.see(shows(run.run_name))
    assert browser.see("location.href").startswith(
        f"{page.split('/#', maxsplit=1)[0]}/#/experiments/{run.experiment_id}/runs?"
    )
    browser.see(
        "[...document.querySelectorAll('.ag-header-cell')].map(c => c.innerText.trim()).join()"
        ".includes('val_acc,test_acc,seed')"
    )
    view = lab.client.get_experiment(run.experiment_id).tags["mlflow.sharedViewState.results"]
    assert "attributes.`Description`" in json.loads(json.loads(view)["state"])["selectedColumns"]
    browser.open(f"{page}&compareRunsMode=CHART")
    browser.see(f"{CHARTS} >= 1")
    text = browser.text()
    assert text.index("val_acc") < text.index("test_acc") < text.index("System metrics")
    assert "cpu_utilization" not in text


def test_runs_are_listed(lab: Lab, address: str, browser: Browser) -> None:
    """The page of an experiment lists its runs."""
    run = lab.newest().info
    browser.open(f"{address}/#/experiments/{run.experiment_id}/runs?workflowType=machine_learning")
    browser.see(shows(run.run_name))
    browser.see(shows(Path(MODEL).name))
    browser.see(shows("feature/feature01"))


def test_metrics_are_drawn(lab: Lab, address: str, browser: Browser) -> None:
    """The page of a run has charts of its metrics and of system metrics."""
    run = lab.newest().info
    page = f"{address}/#/experiments/{run.experiment_id}/runs/{run.run_id}"
    browser.open(f"{page}/model-metrics")
    browser.see(f"{CHARTS} >= 3")
    browser.see(shows("train_loss"))
    browser.open(f"{page}/system-metrics")
    browser.see(f"{CHARTS} >= 1")


@pytest.mark.parametrize("figure", ["confusion_matrix", "most_confident_errors"])
def test_figures_are_shown(lab: Lab, address: str, browser: Browser, figure: str) -> None:
    """The figures of a run are shown among its artifacts."""
    run = lab.newest().info
    place = f"artifacts/figures/{figure}.png"
    browser.open(f"{address}/#/experiments/{run.experiment_id}/runs/{run.run_id}/{place}")
    browser.see(
        f"[...document.images].some(i => i.alt.includes('{figure}') && i.naturalWidth > 400)"
    )


def test_no_store_yet(clone: Lab) -> None:
    """Without a store the script ends with one line that says how to make the first run."""
    process = script(clone)
    out, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "bash scripts/run.sh" in errors
    assert (out + errors).count("\n") == 1


def test_port_in_use(lab: Lab, address: str) -> None:
    """A port in use, or an invalid one, is an error of one line."""
    for port, reason in {
        address.rsplit(":", 1)[1]: "in use",
        "http": "no port",
        "0": "no port",
    }.items():
        process = script(lab, port)
        out, errors = process.communicate(timeout=30)
        assert process.returncode == 1
        assert reason in errors
        assert (out + errors).count("\n") == 1
