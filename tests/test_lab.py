"""`lab runs`, `show`, `diff` and `best`: finding and comparing runs."""

import json
import os
import socket
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import FEATURE, MODEL, QUICK, Lab, free_port, until
from laboratory import SEEDS, a_changeable_one, a_laboratory, refused, said  # noqa: F401  fixtures
from mlflow import MlflowClient
from mlflow.entities import Run
from test_command_line import SLOW


def history(lab: Lab) -> dict[str, Run]:
    """The model runs by what they are: first, seed 1, seed 2, faster, doomed, study, trial 0…"""
    found = {}
    for run in lab.runs("model/model01"):
        note, seed = (run.data.params.get(name, "") for name in ("note", "seed"))
        trial = run.data.tags.get("optuna.trial")
        what = f"seed {seed}" if note == SEEDS else note[:6]
        what = "study" if "optuna.study" in run.data.tags else what
        found[f"trial {trial}" if trial else "first" if what.startswith("why_") else what] = run
    return found


def listed(lab: Lab, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(said(lab, "runs", "--json", *arguments))
    return found


@pytest.mark.parametrize(
    "command",
    [
        "--help",
        "runs --help",
        "runs",
        "runs --sort val_acc --where seed=0",
        "show best",
        "diff latest best",
        "best model01",
    ],
)
def test_quick(laboratory: Lab, command: str) -> None:
    """Commands that need no torch take less than a second of CPU time, and import nothing slow."""
    answer = laboratory.question("-m", "src.utils.lab.cli", *command.split())
    assert not answer.imported & {*SLOW, "hydra"}
    assert answer.seconds < 1.5  # a second, and slack for a busy machine


def test_json_is_what_mlflow_has(laboratory: Lab) -> None:
    """Read by plain SQL, every run has the params, metrics, tags, times and states that MLflow gives."""
    runs = {run.info.run_id: run for run in laboratory.runs("model/model01")}
    found = {one["id"]: one for one in listed(laboratory, "--limit", "0")}
    assert found.keys() == runs.keys()
    for run_id, run in runs.items():
        one = found[run_id]
        assert {name: str(value) for name, value in one["params"].items()} == run.data.params
        assert one["tags"] == run.data.tags
        assert one["metrics"] == pytest.approx(run.data.metrics, nan_ok=True)
        assert (one["name"], one["experiment"]) == (run.info.run_name, "model/model01")
        assert datetime.fromisoformat(one["started"]).timestamp() * 1000 == pytest.approx(
            run.info.start_time
        )
        assert one["status"] in (run.info.status.lower(), "pruned")


def test_leaderboard(laboratory: Lab) -> None:
    """The table has names, ids, states, metrics, what differs, notes, tags, and a mark on a dirty tree."""
    runs, table = history(laboratory), said(laboratory, "runs", COLUMNS="120")
    for run in runs.values():
        assert run.info.run_id[:8] in table
    for what in ("seed 1", "faster", "doomed"):
        assert runs[what].info.run_name in table
        assert runs[what].data.params["note"] in table
    assert f"{runs['faster'].info.run_id[:8]}*" in table
    assert f"{runs['seed 2'].info.run_id[:8]}*" not in table
    assert f"{runs['seed 2'].data.metrics['val_acc']:.4f}" in table
    for part in ("learning_rate=0.01", "seed=2", "#seeds", "failed", "a study", "uncommitted"):
        assert part in table
    assert "batch_size" not in table  # the same everywhere


@pytest.mark.parametrize("columns", ["80", "120"])
def test_leaderboard_fits(laboratory: Lab, columns: str) -> None:
    """No line of the table is longer than the terminal is wide, and no id is cut."""
    table = said(laboratory, "runs", COLUMNS=columns)
    assert max(map(len, table.splitlines())) <= int(columns)
    assert all(run.info.run_id[:8] in table for run in laboratory.runs("model/model01"))


def test_sort(laboratory: Lab) -> None:
    """--sort puts the best first by what the metric means; a minus turns it round; none come last."""
    for name, best_is_highest in {"val_acc": True, "val_loss": False, "-val_acc": False}.items():
        values = [one["metrics"].get(name.strip("-")) for one in listed(laboratory, "--sort", name)]
        present = [value for value in values if value is not None]
        assert present == sorted(present, reverse=best_is_highest)
        assert values[: len(present)] == present
        assert None in values


@pytest.mark.parametrize(
    ("conditions", "meant"),
    {
        ("learning_rate>=0.01",): {"faster"},
        ("status=failed",): {"doomed"},
        ("status=FAILED", "network==mlp"): {"doomed"},
        ("note~SEED", "seed=2"): {"seed 2"},
        ("note~seed",): {"seed 1", "seed 2"},
        ("quick",): {"first"},
        ("tag.seeds", "seed<2"): {"seed 1"},
        ("tag.seeds=true", "seed != 1"): {"seed 2"},
        ("dirty",): {"faster"},
        ("trial=1",): {"trial 1"},
        ("optuna.trial<=1",): {"trial 0", "trial 1"},
        ("val_acc<=1", "first"): {"first"},
    }.items(),
)
def test_where(laboratory: Lab, conditions: tuple[str, ...], meant: set[str]) -> None:
    """--where takes metrics, params, tags and states; several must all hold."""
    arguments = [part for condition in conditions for part in ("--where", condition)]
    found = {one["id"] for one in listed(laboratory, *arguments)}
    assert {what for what, run in history(laboratory).items() if run.info.run_id in found} == meant
    assert len(found) == len(meant)


def test_experiments(laboratory: Lab) -> None:
    """--experiment takes an experiment, its short name, or a stage; without it, models are listed."""
    for name in ("dataset/dataset01", "dataset01", "dataset"):
        assert {one["experiment"] for one in listed(laboratory, "--experiment", name)} == {
            "dataset/dataset01"
        }
    assert {one["experiment"] for one in listed(laboratory)} == {"model/model01"}
    assert len(listed(laboratory, "--limit", "2")) == 2


def test_references(laboratory: Lab) -> None:
    """Ids, their beginnings, names, latest and best, alone or within an experiment or a study, mean a run."""
    runs = history(laboratory)
    study, trials = runs["study"], [runs[f"trial {n}"] for n in range(3)]
    newest = laboratory.newest()
    done = [
        run
        for run in laboratory.runs("model/model01")
        if run.info.status == "FINISHED" and "val_acc" in run.data.metrics
    ]
    done = [run for run in done if run.data.tags.get("optuna.state") != "pruned"]
    top = max(run.data.metrics["val_acc"] for run in done)
    meant = {
        runs["faster"].info.run_id: runs["faster"],
        runs["faster"].info.run_id[:6]: runs["faster"],
        runs["faster"].info.run_name: runs["faster"],
        study.info.run_name: study,
        f"{study.info.run_name}/1": trials[1],
        f"{study.info.run_id}/2": trials[2],
        f"{study.info.run_name}/best": laboratory.client.get_run(study.data.tags["best.run_id"]),
        "latest": newest,
        "model01/latest": newest,
        "feature01/latest": laboratory.newest("feature/feature01"),
    }
    for reference, run in meant.items():
        assert json.loads(said(laboratory, "show", reference, "--json"))["id"] == run.info.run_id
    for reference in ("best", "model01/best", "model/model01/best"):
        assert (
            json.loads(said(laboratory, "show", reference, "--json"))["metrics"]["val_acc"] == top
        )
    assert json.loads(said(laboratory, "best", "model01", "--json"))["metrics"]["val_acc"] == top
    best = json.loads(said(laboratory, "best", study.info.run_name, "--json"))
    assert best["id"] == study.data.tags["best.run_id"]


@pytest.mark.parametrize(
    ("command", "parts"),
    {
        "show nothing": ["'nothing'", "the newest are"],
        "show model07/best": ["model07", "did you mean model01?"],
        "runs --experiment modle01": ["modle01", "did you mean model01?"],
        "runs --where learnin_rate>1": ["learnin_rate", "learning_rate"],
        "runs --where >1": [">1", "write one like"],
        "runs --sort speed": ["speed"],
        "runs --limit many": ["--limit", "lab runs --help"],
        "runs --where val_acc>2": ["no run matches"],
        "rnus": ["rnus", "runs"],
        "show": ["RUN", "lab show --help"],
    }.items(),
)
def test_refusals(laboratory: Lab, command: str, parts: list[str]) -> None:
    """An error is one line that names the mistake and what was likely meant, or where to look."""
    line = refused(laboratory, *command.split())
    assert [part for part in parts if part not in line] == []


def test_ambiguity(clone: Lab, tmp_path: Path) -> None:
    """A name or a beginning that several runs share is refused, and they are named."""
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    client = MlflowClient(store["MLFLOW_TRACKING_URI"])
    runs = [client.create_run("0", run_name=f"run {n // 2}").info for n in range(17)]
    shared = next(c for c in "0123456789abcdef" if sum(one.run_id[0] == c for one in runs) > 1)
    for reference, meant in (
        (shared, [one for one in runs if one.run_id[0] == shared]),
        ("run 3", runs[6:8]),
    ):
        line = refused(clone, "show", reference, **store)
        assert f"{reference!r} means several runs" in line
        assert sum(f"{one.run_id[:8]} ({one.run_name})" in line for one in meant) >= 2


def test_no_runs(bare: Lab) -> None:
    """Without any run, commands say so, and how to make the first one."""
    for command in ("runs", "show latest", "best model01", "gc", "diary"):
        assert "scripts/run.sh" in refused(bare, *command.split())


def test_show(laboratory: Lab) -> None:
    """A run with its settings, metrics, lineage of data, code, machine, files, and commands to type next."""
    run = history(laboratory)["faster"]
    text = said(laboratory, "show", run.info.run_id)
    lineage = [laboratory.newest("feature/feature01"), laboratory.newest("dataset/dataset01")]
    wanted = [
        *(made.info.run_id[:8] for made in lineage),
        *("learning_rate 0.01", f"val_acc {run.data.metrics['val_acc']:.4f}", "source=sample"),
        *("with uncommitted changes", "changes.patch", laboratory.git("rev-parse", "HEAD")[:12]),
        *("checkpoints/best.ckpt", "figures/confusion_matrix.png", "load_model", "rerun"),
    ]
    assert [part for part in wanted if part not in text] == []


def test_show_study(laboratory: Lab) -> None:
    """A study shows its trials, its best trial, and the command that resumes it."""
    runs = history(laboratory)
    text = said(laboratory, "show", runs["study"].info.run_name)
    assert all(runs[f"trial {n}"].info.run_id[:8] in text for n in range(3))
    assert f"resume_study={runs['study'].info.run_name}" in text


def test_diff(laboratory: Lab) -> None:
    """The differences between two runs in settings, code and metrics, and the list of what is the same."""
    runs = history(laboratory)
    text = said(laboratory, "diff", runs["seed 2"].info.run_id, runs["faster"].info.run_id)
    rows = [line.split() for line in text.splitlines()]
    assert ["seed", "2", "0", "-2"] in rows
    assert ["learning_rate", "0.002", "0.01", "+0.008"] in rows
    assert any(row[:1] == ["val_acc"] for row in rows)
    assert "+# a change that was not committed" in text
    assert "the same: data, commit, packages, machine" in text
    assert "hidden" not in text
    assert any(
        row[0] == "…/model01/digit_classifier.py" and row[1:3] == ["+2", "-0"]
        for row in rows
        if row
    )
    same = ("settings", "data", "commit", "uncommitted changes", "packages", "machine", "metrics")
    nothing = said(laboratory, "diff", runs["faster"].info.run_id, runs["faster"].info.run_id)
    assert nothing.split() == f"the same: {', '.join(same)}, source".split()


def test_diff_of_data(changeable: Lab) -> None:
    """Runs on different data differ by digest, back to the first dataset."""
    before = changeable.newest()
    changeable.done(FEATURE, "val_fraction=0.2")
    changeable.done(MODEL, *QUICK)
    text = said(changeable, "diff", before.info.run_id, "latest")
    assert any(line.split()[:1] == ["feature/feature01"] for line in text.splitlines())
    assert not any(line.split()[:1] == ["dataset/dataset01"] for line in text.splitlines())


def test_load_model(laboratory: Lab) -> None:
    """load_model takes the same references, and says when it uses the source saved with the run."""
    study = history(laboratory)["study"].info.run_name
    code = f"""
        from src.utils.tracking import load_model
        for reference in ("best", "model01/best", "{study}", "{study}/0"):
            print(type(load_model(reference)).__name__)
        print(load_model("latest", experiment_name="model01").training)
    """
    out, err = laboratory.python(code)
    assert out.split() == ["MLP"] * 4 + ["False"]
    changed = "src/model/model01 has changed since: using the source kept with the run\n"
    assert err == changed * 2  # the best one ran in a dirty tree


def test_moved(laboratory: Lab, tmp_path: Path) -> None:
    """In a repository that was moved, the first command finds every file in its new place."""
    elsewhere = laboratory.copied(tmp_path / "else where")
    found = json.loads(said(elsewhere, "show", "best", "--json"))
    assert (elsewhere.root / found["artifacts"]).is_dir()
    assert "checkpoints/best.ckpt" in found["files"]


def test_server(laboratory: Lab, tmp_path: Path) -> None:
    """A store behind a server gives the same lists as the file that it serves."""
    copy = laboratory.copied(tmp_path / "served")
    said(copy, "runs")  # puts the paths of the copy right
    database = f"sqlite:///{copy.root}/logs/mlruns/mlflow.db"
    port = free_port()
    options = ["--backend-store-uri", database, "--port", str(port), "--workers", "1"]
    server = copy.start(
        sys.executable,
        "-m",
        "mlflow",
        "server",
        *options,
        MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
    )
    address = {
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }
    try:
        until(lambda: _answers(port), 90)
        remote = json.loads(said(copy, "runs", "--json", "--sort", "val_acc", **address))
        assert remote == json.loads(said(copy, "runs", "--json", "--sort", "val_acc"))
        for command in (("show", "best", "--json"), ("diff", "best", "model01/latest")):
            assert said(copy, *command, **address) == said(copy, *command)
    finally:
        os.killpg(server.pid, 15)
        server.communicate()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_not_a_number(fresh: Lab) -> None:
    """A metric that is NaN is shown as such, and is never the best."""
    run = fresh.newest()
    fresh.client.log_metric(run.info.run_id, "val_acc", float("nan"), step=99)
    assert "nan" in said(fresh, "runs")
    assert "no finished run" in refused(fresh, "best", "model01")
