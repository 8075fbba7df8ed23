"""Runs travel: `lab push` and `lab pull`, between clones and folders."""

import json
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from src.utils.transfer.artifacts import copy_files
from src.utils.transfer.portable import PortableRun

import pytest
from conftest import Lab, made_once, until
from laboratory import refused, said
from test_plain_models import PROGRAM, add_logistic

NOTHING = "nothing to do"
TABLES = {  # what must be the same everywhere
    "runs": "run_uuid, name, user_id, status, start_time, end_time, lifecycle_stage",
    "params": "run_uuid, key, value",
    "metrics": "run_uuid, key, value, timestamp, step, is_nan",
    "latest_metrics": "run_uuid, key, value, timestamp, step, is_nan",
    "tags": "run_uuid, key, value",
}
DATASETS = """
    SELECT destination_id, datasets.name, digest, dataset_source, input_tags.name, input_tags.value
    FROM inputs JOIN datasets ON source_id = dataset_uuid JOIN input_tags USING (input_uuid)
    ORDER BY inputs.rowid, input_tags.name
"""
LINK = "#/experiments/{}/"


@pytest.fixture(scope="session", name="home")
def a_laboratory(shared: Path, lab: Lab) -> Lab:
    """A training with its data, a group, a study, and a run that was killed. To be read only."""

    def make(home: Lab) -> None:
        lab.copied(home.root)
        add_logistic(home)
        home.done(PROGRAM, "seeds=2")
        home.done(PROGRAM, "-m", "rate=0.1,0.5", "epochs=2", "note=search")
        home.run(PROGRAM, "note=killed", KILL="4")

    return made_once(shared / "home", make)


@pytest.fixture(name="away")
def another_clone(home: Lab, tmp_path: Path) -> Lab:
    """A clone in which nothing has run."""
    return clone_of(home, tmp_path / "away")


def clone_of(lab: Lab, root: Path) -> Lab:
    subprocess.run(["git", "clone", "--quiet", lab.root, root], check=True)
    (root / ".venv").symlink_to(sys.prefix)
    return Lab(root)


def query(lab: Lab, text: str) -> list[tuple]:
    database = lab.root / "logs" / "mlruns" / "mlflow.db"
    with closing(sqlite3.connect(database)) as store:
        return store.execute(text).fetchall()


def known(lab: Lab) -> dict[str, list[tuple]]:
    """All that the store of a laboratory knows, but where it lies."""
    rows = {
        table: sorted(query(lab, f"SELECT {columns} FROM {table}"), key=repr)
        for table, columns in TABLES.items()
    }
    numbers = dict(query(lab, "SELECT CAST(experiment_id AS TEXT), name FROM experiments"))
    for number, name in numbers.items():  # of links in notes
        rows["tags"] = [
            (*key, value.replace(LINK.format(number), LINK.format(name)))
            for *key, value in rows["tags"]
        ]
    datasets: dict[str, list] = {}
    for run, *values in query(lab, DATASETS):
        datasets.setdefault(run, []).append(values)
    return rows | {"datasets": sorted(datasets.items())}


def files(lab: Lab) -> dict[Path, tuple[int, int]]:
    """All artifacts of a laboratory, with size and time."""
    store = lab.root / "logs" / "mlruns"
    return {
        file.relative_to(store): (file.stat().st_size, file.stat().st_mtime_ns)
        for file in store.glob("*/*/*/artifacts/**/*")
        if file.is_file()
    }


def moved(lab: Lab, *command: str | Path) -> dict[str, int]:
    """How many runs a transfer has moved, by what became of them."""
    outcomes = list(json.loads(said(lab, *map(str, command), "--json"))["runs"].values())
    return {outcome: outcomes.count(outcome) for outcome in outcomes}


def test_there_and_back(home: Lab, away: Lab, tmp_path: Path) -> None:
    """What was pushed to a folder and pulled in another clone is there as if it had run there: every row and
    every file; a second push and a second pull move nothing."""
    stick = tmp_path / "stick"
    count = len(known(home)["runs"])
    assert moved(home, "push", stick) == {"new": count}
    assert moved(away, "pull", stick) == {"new": count}
    assert known(away) == known(home)
    assert files(away) == files(home)
    listed = (said(lab, "runs", "--limit=0", "--json") for lab in (home, away))
    assert (
        len({text.replace(str(home.root), "").replace(str(away.root), "") for text in listed}) == 1
    )
    before = {file: file.stat().st_mtime_ns for file in stick.rglob("*") if file.name != ".lock"}
    assert NOTHING in said(home, "push", str(stick))
    assert NOTHING in said(away, "pull", str(stick))
    assert NOTHING in said(away, "pull", str(home.root))  # a clone is read directly, too
    assert before == {f: f.stat().st_mtime_ns for f in stick.rglob("*") if f.name != ".lock"}


def killed_run(lab: Lab) -> str:
    ((run,),) = [query(lab, "SELECT run_uuid FROM runs WHERE status = 'RUNNING'")]
    return str(run[0])


def status(lab: Lab, run: str) -> str:
    ((found,),) = query(lab, f"SELECT status FROM runs WHERE run_uuid = '{run}'")
    return str(found)


def test_goes_on_elsewhere(home: Lab, away: Lab, tmp_path: Path) -> None:
    """A run that was stopped here is resumed in another clone, and comes back with its end and its files;
    what was tagged here meanwhile stays. The older state never comes in place of the newer one."""
    home, run = home.copied(tmp_path / "home"), killed_run(home)
    assert "updated" not in moved(away, "pull", home.root)
    said(away, "resume", run)
    home.client.set_tag(run, "mine", "yes")
    assert moved(home, "push", away.root)["updated"] == 1  # the tag alone
    assert (status(home, run), status(away, run)) == ("RUNNING", "FINISHED")
    assert moved(home, "pull", away.root)["updated"] == 1
    assert status(home, run) == "FINISHED"
    assert home.client.get_run(run).data.tags["mine"] == "yes"
    assert len(home.client.get_metric_history(run, "val_loss")) == 6
    assert known(home) == known(away)
    assert files(home) == files(away)
    assert NOTHING in said(home, "pull", str(away.root))
    assert NOTHING in said(home, "push", str(away.root))


def test_as_if_it_had_run_here(home: Lab, away: Lab) -> None:
    """Runs of another clone are found, compared, loaded, and repeated bit for bit."""
    said(away, "pull", str(home.root))
    for reference in ("model01/latest", "model92/best"):
        shown = [json.loads(said(lab, "show", reference, "--json")) for lab in (home, away)]
        assert shown[0]["id"] == shown[1]["id"]
        assert shown[0]["data"] == shown[1]["data"]
    assert "rate" in said(away, "diff", "model92/latest", "model92/best")
    assert "verdict: identical" in said(away, "rerun", "model01/latest")
    out, _ = away.python(
        """
        from src.utils.tracking import load_model

        print(load_model("model92/best").weights.shape)
        """
    )
    assert "(8,)" in out


def test_killed_in_the_middle(home: Lab, away: Lab, tmp_path: Path) -> None:
    """A pull that is killed has brought complete runs only; typed again, it brings the others."""
    stick, database = tmp_path / "stick", away.root / "logs" / "mlruns" / "mlflow.db"
    said(home, "push", str(stick))
    process = away.start(sys.executable, "-m", "src.utils.lab.cli", "pull", stick)
    until(lambda: database.exists() and query(away, "SELECT 1 FROM runs LIMIT 1"))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    arrived = {run for (run,) in query(away, "SELECT run_uuid FROM runs")}
    whole = {file for file in files(home) if file.parts[2] in arrived}
    assert whole <= files(away).keys()
    said(away, "pull", str(stick))
    assert known(away) == known(home)
    assert files(away) == files(home)


def test_choice(home: Lab, tmp_path: Path) -> None:
    """`--experiment`, `--where`, `--since` and references choose runs; what belongs to them comes along."""
    study = "study=" + query(home, "SELECT value FROM tags WHERE key = 'optuna.study'")[0][0]
    choices = {
        ("--experiment=feature01",): {"feature/feature01": 1, "dataset/dataset01": 1},
        ("model01/latest",): {"model/model01": 1, "feature/feature01": 1, "dataset/dataset01": 1},
        ("--where=rate=0.1",): {
            "model/model92": 3
        },  # a trial: with it the study, and its other trial
        (f"--where={study}", "--experiment=model92"): {"model/model92": 3},
        ("--where=group.seed=1",): {"model/model92": 3},  # a member: with it its group
        ("--since=1h",): dict.fromkeys(("dataset/dataset01", "feature/feature01"), 1)
        | {"model/model01": 1, "model/model92": 7},
    }
    names = dict(query(home, "SELECT run_uuid, name FROM runs"))
    for options, expected in choices.items():
        done = json.loads(
            said(home, "push", str(tmp_path / "new"), *options, "--dry-run", "--json")
        )
        experiments = [experiment_of(home, run) for run in done["runs"]]
        assert {one: experiments.count(one) for one in experiments} == expected, (options, names)
    assert not (tmp_path / "new").exists()
    assert "no run" in refused(home, "push", str(tmp_path / "new"), "--since=2999-01-01")
    assert "2026-11-01" in refused(home, "push", str(tmp_path / "new"), "--since=yesterday")


def experiment_of(lab: Lab, run: str) -> str:
    ((name,),) = query(
        lab,
        f"SELECT experiments.name FROM runs JOIN experiments USING (experiment_id) "
        f"WHERE run_uuid = '{run}'",
    )
    return str(name)


def test_only_logs(home: Lab, away: Lab, tmp_path: Path) -> None:
    """Of a notebook elsewhere only `logs/` comes back, with the paths that it had there: one pull brings its
    runs home. A deleted run doesn't come, and one that is deleted here stays so."""
    home = home.copied(tmp_path / "kaggle")
    before, *others = (run for (run,) in query(home, "SELECT run_uuid FROM runs"))
    home.client.delete_run(before)
    for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
        with closing(sqlite3.connect(home.root / "logs/mlruns/mlflow.db")) as store, store:
            old = str(home.root)
            store.execute(f"UPDATE {table} SET {column} = replace({column}, ?, '/no')", (old,))
    output = tmp_path / "output"
    shutil.move(home.root / "logs", output / "logs")
    assert moved(away, "pull", output) == {"new": len(others)}
    assert {run for (run,) in query(away, "SELECT run_uuid FROM runs")} == {*others}
    present = files(away)
    assert {file.parts[2] for file in present} == {*others}
    away.client.delete_run(others[0])
    assert moved(away, "pull", output) == {"unchanged": len(others) - 1, "deleted": 1}
    assert "stay deleted" in said(away, "pull", str(output))


def test_refusals(home: Lab, away: Lab, tmp_path: Path) -> None:
    """What can't be is refused in one line, and nothing is written."""
    other, old = tmp_path / "other", tmp_path / "old"
    other.mkdir()
    (other / "holiday.jpg").touch()
    (old / "logs" / "mlruns").mkdir(parents=True)
    database = old / "logs" / "mlruns" / "mlflow.db"
    shutil.copy(home.root / "logs" / "mlruns" / "mlflow.db", database)
    for version, advice in (("451aebb31d03", "mlflow db upgrade"), ("future", "upgrade mlflow")):
        with closing(sqlite3.connect(database)) as store, store:
            store.execute("UPDATE alembic_version SET version_num = ?", (version,))
        assert advice in refused(home, "pull", str(old))
    assert "itself" in refused(home, "push", ".")
    assert "no runs" in refused(home, "pull", str(other))
    assert "not exist" in refused(home, "pull", str(tmp_path / "nowhere"))
    assert "other things" in refused(home, "push", str(other))
    assert "not exist" in refused(home, "push", str(tmp_path / "nowhere" / "deep"))
    assert "no runs" in refused(away, "push", str(tmp_path / "new"))
    assert [file.name for file in other.iterdir()] == ["holiday.jpg"]


def test_full_disk(home: Lab, away: Lab, tmp_path: Path) -> None:
    """Where a disk is full, a transfer ends in one line; what has arrived stays, and the next one goes on."""
    stick = tmp_path / "stick"
    typed_so = f"ulimit -f 100; exec {sys.executable} -m src.utils.lab.cli push {stick}"  # 100 kB
    process = home.start("bash", "-c", typed_so)
    _, err = process.communicate(timeout=100)
    assert (process.returncode, err.count("\n")) == (2, 1), err
    assert "too large" in err
    assert "of 10 runs have arrived; type it again to go on" in err
    outcomes = moved(home, "push", stick)
    assert outcomes["unchanged"] > 0 < outcomes["new"]
    said(away, "pull", str(stick))
    assert files(away) == files(home)


def test_nothing_is_lost_in_json() -> None:
    """A run is the same after JSON, NaN and infinity among its metrics, too."""
    points = [(math.nan, 5, 0), (math.inf, 6, 1), (-math.inf, 7, 2), (0.1 + 0.2, 8, 3)]
    run = PortableRun("id", "name", "model/one", "FINISHED", history={"loss": points})
    again = PortableRun.from_dict(json.loads(json.dumps(run.as_dict(), allow_nan=False)))
    assert repr(again) == repr(run)


def test_unchanged_files(tmp_path: Path) -> None:
    """A file is copied if its size or time differs, also where a disk keeps times less exactly; drafts that a
    run is writing are left out."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for name in ("a.ckpt", ".b.ckpt"):
        (source / name).write_text(name)
    assert copy_files(source, target, lambda size: None) == (1, 6)
    assert copy_files(source, target, lambda size: None) == (0, 0)
    time = (source / "a.ckpt").stat().st_mtime_ns
    for seconds, copied in ((2, 0), (0, 1)):  # FAT keeps even seconds
        coarse = time // 10**9 // 2 * 2 * 10**9 if seconds else time + 1
        os.utime(target / "a.ckpt", ns=(coarse, coarse))
        assert copy_files(source, target, lambda size: None) == (copied, 6 * copied)
