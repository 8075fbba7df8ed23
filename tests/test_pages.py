"""The pages in a browser: MLflow's, served by scripts/mlflow_ui.sh, and optuna-dashboard's."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

from src.utils.lab.mlflow_server import sort_metrics

import optuna
import pytest
from browser import Browser, a_browser  # noqa: F401  a fixture
from conftest import MODEL, Lab
from mlflow.entities import Run
from sweeps import TOY, SweepLab

CHARTS = "[...document.querySelectorAll('.js-plotly-plot .trace')].length"
# The columns of the table, from left to right
HEADERS = (
    "[...document.querySelectorAll('.ag-header-cell')]"
    ".sort((a, b) => a.getBoundingClientRect().left - b.getBoundingClientRect().left)"
    ".map(c => c.innerText.trim()).join()"
)


def script(lab: Lab, name: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return lab.start("bash", lab.root / f"scripts/{name}.sh", *arguments, **environment)


@contextmanager
def served(lab: Lab, name: str, **environment: str) -> Iterator[str]:
    """The address that a script prints, while it runs; Ctrl-C ends it and its server."""
    process = script(lab, name, **environment)
    assert process.stdout is not None
    output = "".join(iter(lambda: process.stdout.read(1), ")"))  # type: ignore[union-attr]
    found = re.search(r"http://127\.0\.0\.1:\d+/\S*", output)
    assert found, output
    yield found[0]
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert errors == ""


@pytest.fixture(scope="module")
def toys(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> SweepLab:
    """A laboratory with one training, and a study and a group of the toy, which is the newest."""
    toys = SweepLab(lab.copied(tmp_path_factory.mktemp("pages") / "lab").root)
    toys.add_toy()
    space = ("x=interval(0,1)", "y=choice(low,high)")
    toys.sweep(
        TOY, *space, "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1", "note=why <b>x</b>?"
    )
    toys.done(TOY, "seeds=2", "x=0.7")
    return toys


@pytest.fixture(scope="module")
def study(toys: SweepLab) -> optuna.Study:
    return toys.study()


@pytest.fixture(scope="module")
def page(toys: SweepLab) -> Iterator[str]:
    """The address of MLflow's page."""
    with served(toys, "mlflow_ui") as address:
        yield address


def shows(text: str) -> str:
    return f"document.body.innerText.includes({json.dumps(text)})"


def experiment(lab: Lab, name: str = "model/model01") -> Any:
    return lab.client.get_experiment_by_name(name)


def group_of(toys: SweepLab) -> Run:
    runs = toys.runs("model/model90")
    return next(run for run in runs if "group.members" in run.data.tags)


def test_kind_of_experiments(lab: Lab) -> None:
    """Each experiment is marked as model training when it is created, before its page is opened."""
    names = ("dataset/dataset01", "feature/feature01", "model/model01")
    kinds = [experiment(lab, name).tags["mlflow.experimentKind"] for name in names]
    assert kinds == ["custom_model_development"] * 3


def test_bare_address(toys: SweepLab, page: str, browser: Browser) -> None:
    """The bare address opens on the newest model's runs, with objective, note and settings that differ; no
    assistant and no traces of language models are in the way."""
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", page)
    browser.open(page)
    browser.see(shows(group_of(toys).info.run_name))
    number = experiment(toys, "model/model90").experiment_id
    assert f"/#/experiments/{number}/runs" in browser.see("location.href")
    browser.see(f"{HEADERS}.includes('objective,objective_sd,Description,seeds,x')")
    assert "Ask questions" not in browser.text()


def test_side_menu(toys: SweepLab, page: str, browser: Browser) -> None:
    """From the list of experiments one comes to an experiment's runs, with the columns of its own."""
    browser.open(f"{page}#/experiments")
    link = "[...document.querySelectorAll('main a, a')].find(a => a.innerText == 'model/model01')"
    browser.see(f"!!{link}")
    browser.see(f"{link}.click() || true")
    browser.see(shows(toys.newest().info.run_name))
    assert f"/#/experiments/{experiment(toys).experiment_id}/runs" in browser.see("location.href")
    browser.see(f"{HEADERS}.includes('val_acc,test_acc,Description')")
    browser.see(shows("why_why_"))


def test_charts_of_an_experiment(toys: SweepLab, page: str, browser: Browser) -> None:
    """The charts of an experiment begin with the objective and end with system metrics."""
    number = experiment(toys).experiment_id
    browser.open(f"{page}#/experiments/{number}/runs?compareRunsMode=CHART")
    browser.see(f"{CHARTS} >= 1")
    text = browser.text()
    assert text.index("val_acc") < text.index("test_acc") < text.index("System metrics")
    assert "cpu_utilization" not in text


def test_own_columns(toys: SweepLab, page: str, browser: Browser) -> None:
    """Columns that were chosen in the browser stay, and others follow the runs."""
    numbers = [experiment(toys, name).experiment_id for name in ("model/model01", "model/model90")]
    keys = [f'MLflowLocalStorage-1.1-ExperimentPage-["{n}"]-ReactComponentState' for n in numbers]
    browser.open(page)
    chosen, ours = ["attributes.`User`"], ["metrics.`old`"]
    for key, columns in zip(keys, (chosen, ours), strict=True):
        state = json.dumps(json.dumps({"selectedColumns": columns}))
        browser.see(f"localStorage.setItem({json.dumps(key)}, {state}) || true")
    old = json.dumps(json.dumps(ours, separators=(",", ":")))
    browser.see(f"localStorage.setItem('jikken.columns-{numbers[1]}', {old}) || true")
    browser.open(f"{page}#/experiments")
    kept, updated = (
        browser.see(f"JSON.parse(localStorage.getItem({json.dumps(key)})).selectedColumns")
        for key in keys
    )
    assert kept == chosen
    assert updated[:2] == ["metrics.`objective`", "metrics.`objective_sd`"]


def test_views(toys: SweepLab, page: str) -> None:
    """The view of each experiment is in the page, and in the store for other servers; it shows no system
    metric and no bookkeeping, also of datasets and features."""
    with urlopen(page) as answer:
        text = answer.read().decode()
    found = re.search(r"const VIEWS = (.*);\n", text)
    assert found
    views = json.loads(found[1])
    for name in ("dataset/dataset01", "feature/feature01", "model/model01", "model/model90"):
        view = views[experiment(toys, name).experiment_id]
        columns = " ".join(view["selectedColumns"])
        assert "params." in columns
        assert not re.search(r"system/|`note`|`tags`|`stale`|resume_run", columns)
        stored = json.loads(experiment(toys, name).tags["mlflow.sharedViewState.results"])
        assert json.loads(stored["state"]) == view


def test_page_of_a_study(toys: SweepLab, study: optuna.Study, page: str, browser: Browser) -> None:
    """The page of a study shows the user's note, the best setting, a table with links to the trials' runs,
    and a plot; its trials are called by what they tried."""
    run, best = toys.study_run(study).info, study.best_trial
    browser.open(f"{page}#/experiments/{run.experiment_id}/runs/{run.run_id}")
    browser.see(shows(f"#{best.number} x="))
    text = browser.text()
    assert text.index("why") < text.index("Best objective ") < text.index("Metrics (")
    assert "Trials: 3 complete" in text
    links = browser.see("[...document.querySelectorAll('a')].map(a => a.href).join(' ')")
    assert f"/runs/{best.user_attrs['run_id']}?" in links
    assert "/artifacts/plots/study.html?" in links
    assert f":8080/dashboard/studies/{study._study_id}" in links
    browser.see("[...document.images].some(i => i.src.includes('plots') && i.naturalWidth > 400)")


def test_comparing(toys: SweepLab, study: optuna.Study, page: str, browser: Browser) -> None:
    """Comparing trials draws the objective against what they tried."""
    ids = [trial.user_attrs["run_id"] for trial in study.trials]
    number = toys.study_run(study).info.experiment_id
    query = f"runs={quote(json.dumps(ids))}&experiments={quote(json.dumps([number]))}"
    browser.open(f"{page}#/compare-runs?{query}")
    axes = "[...document.querySelectorAll('.axis-title')].map(t => t.textContent).join()"
    browser.see(f"{axes} == 'x,y,objective' || {axes} == 'x,objective'")


def test_order_of_metrics() -> None:
    """A run's metrics begin with its objective, and end with those of time and hardware."""
    names = ["system/cpu", "epoch", "test_acc", "fold0/epoch_seconds", "val_acc"]
    metrics = [{"key": name} for name in names]
    tags = [{"key": "monitor", "value": "val_acc max"}]
    ordered = [one["key"] for one in sort_metrics(metrics, tags)]
    assert ordered == ["val_acc", "test_acc", "epoch", "system/cpu", "fold0/epoch_seconds"]
    assert [one["key"] for one in sort_metrics(metrics, [])][:2] == ["epoch", "test_acc"]


def test_page_of_a_group(toys: SweepLab, page: str, browser: Browser) -> None:
    """The page of a group shows mean and standard deviation, and its members."""
    group = group_of(toys).info
    browser.open(f"{page}#/experiments/{group.experiment_id}/runs/{group.run_id}")
    for text in ("objective_sd", "seed 0", "seed 1"):
        browser.see(shows(text))


def test_server(toys: SweepLab, page: str) -> None:
    """For a server the script saves the views there, and prints the address of the newest model's page."""
    process = script(toys, "mlflow_ui", MLFLOW_TRACKING_URI=page.rstrip("/"))
    out, errors = process.communicate(timeout=60)
    number = experiment(toys, "model/model90").experiment_id
    place = f"#/experiments/{number}/runs?viewStateShareKey=results&workflowType=machine_learning"
    assert errors == ""
    assert out.splitlines()[0] == f"{page}{place}"
    assert "«Model training»" in out


def test_runs_are_listed(toys: SweepLab, page: str, browser: Browser) -> None:
    """The page of an experiment lists its runs with program and data."""
    run = toys.newest().info
    browser.open(f"{page}#/experiments/{run.experiment_id}/runs/{run.run_id}")
    browser.see(shows(run.run_name))
    browser.see(shows(Path(MODEL).name))
    browser.see(shows("feature/feature01"))


def test_metrics_are_drawn(toys: SweepLab, page: str, browser: Browser) -> None:
    """The page of a run has charts of its metrics and of system metrics."""
    run = toys.newest().info
    place = f"{page}#/experiments/{run.experiment_id}/runs/{run.run_id}"
    browser.open(f"{place}/model-metrics")
    browser.see(f"{CHARTS} >= 3")
    browser.see(shows("train_loss"))
    browser.open(f"{place}/system-metrics")
    browser.see(f"{CHARTS} >= 1")


def test_dashboard(toys: SweepLab, study: optuna.Study, browser: Browser) -> None:
    """optuna-dashboard shows the notes of a study and of a trial, with links to their runs in MLflow."""
    with served(toys, "optuna_dashboard") as address:
        browser.open(f"{address}/studies/{study._study_id}/note")
        browser.see(shows("The study in MLflow"))
        browser.open(f"{address}/studies/{study._study_id}/trials?numbers=1")
        browser.see(shows("Its run in MLflow"))
        links = browser.see("[...document.querySelectorAll('a')].map(a => a.href).join(' ')")
        assert f"/runs/{study.trials[1].user_attrs['run_id']}?" in links


@pytest.mark.parametrize("figure", ["confusion_matrix", "most_confident_errors"])
def test_figures_are_shown(toys: SweepLab, page: str, browser: Browser, figure: str) -> None:
    """The figures of a run are shown among its artifacts."""
    run = toys.newest().info
    place = f"artifacts/figures/{figure}.png"
    browser.open(f"{page}#/experiments/{run.experiment_id}/runs/{run.run_id}/{place}")
    browser.see(
        f"[...document.images].some(i => i.alt.includes('{figure}') && i.naturalWidth > 400)"
    )


def test_no_store_yet(clone: Lab) -> None:
    """Without a store the script ends with one line that says how to make the first run."""
    process = script(clone, "mlflow_ui")
    out, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "bash scripts/run.sh" in errors
    assert (out + errors).count("\n") == 1


def test_port_in_use(toys: SweepLab, page: str) -> None:
    """A port in use, or an invalid one, is an error of one line."""
    for port, reason in {
        page.rstrip("/").rsplit(":", 1)[1]: "in use",
        "http": "no port",
        "0": "no port",
    }.items():
        process = script(toys, "mlflow_ui", port)
        out, errors = process.communicate(timeout=30)
        assert process.returncode == 1
        assert reason in errors
        assert (out + errors).count("\n") == 1
