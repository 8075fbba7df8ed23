"""Runs travel: `lab push` and `lab pull`, between clones and folders."""

import json
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

from src.utils.errors import UserError
from src.utils.lab.transfer import Choice, transfer
from src.utils.transfer.artifacts import copy_files
from src.utils.transfer.database import DatabasePlace
from src.utils.transfer.folder import FolderPlace
from src.utils.transfer.place import Place
from src.utils.transfer.portable import PortableRun
from src.utils.transfer.where import source_place, target_place

import pytest
from conftest import ROOT, Lab, made_once, until
from laboratory import refused, said
from test_plain_models import PROGRAM, add_logistic

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

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

    return made_once(shared / "travels", make)


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


def store_of(lab: Lab) -> Place:
    return DatabasePlace.of_folder(lab.root.name, lab.root / "logs" / "mlruns" / "mlflow.db")


def moved(lab: Lab, *command: str | Path, **environment: str) -> dict[str, int]:
    """How many runs a transfer has moved, by what became of them."""
    text = said(lab, *map(str, command), "--json", **environment)
    outcomes = list(json.loads(text)["runs"].values())
    return {outcome: outcomes.count(outcome) for outcome in outcomes}


def bring(source: Lab | Path, target: Lab | Path, choice: Choice | None = None) -> dict[str, int]:
    """Bring runs without typing it; how many there were, by what became of them."""
    places = [
        store_of(one) if isinstance(one, Lab) else FolderPlace(one.name, one)
        for one in (source, target)
    ]
    return Counter(transfer(*places, choice or Choice(), False, False).moved.runs.values())


@pytest.fixture(scope="module", name="stick")
def a_folder(home: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to which the runs of the laboratory were pushed. To be read only."""
    folder = tmp_path_factory.mktemp("stick") / "runs"
    count = len(known(home)["runs"])
    assert f"{count} runs" in said(home, "push", folder)
    return folder


def test_there_and_back(home: Lab, away: Lab, stick: Path) -> None:
    """What was pushed to a folder and pulled in another clone is there as if it had run there: every row and
    every file; a second push and a second pull move nothing."""
    done = json.loads(said(away, "pull", stick, "--json"))
    assert set(done["runs"].values()) == {"new"}
    assert known(away) == known(home)
    assert files(away) == files(home)
    listed = (said(lab, "runs", "--limit=0", "--json") for lab in (home, away))
    assert (
        len({text.replace(str(home.root), "").replace(str(away.root), "") for text in listed}) == 1
    )
    before = {file: file.stat().st_mtime_ns for file in stick.glob("runs/**/*")}
    assert NOTHING in said(home, "push", stick)
    assert NOTHING in said(away, "pull", home.root)  # a clone is read directly, too
    assert before == {file: file.stat().st_mtime_ns for file in stick.glob("runs/**/*")}


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
    assert bring(home, away).keys() == {"new"}
    said(away, "resume", run)
    home.client.set_tag(run, "mine", "yes")
    assert bring(home, away)["updated"] == 1  # the tag alone
    assert (status(home, run), status(away, run)) == ("RUNNING", "FINISHED")
    assert bring(away, home)["updated"] == 1
    assert status(home, run) == "FINISHED"
    assert home.client.get_run(run).data.tags["mine"] == "yes"
    assert len(home.client.get_metric_history(run, "val_loss")) == 6
    assert known(home) == known(away)
    assert files(home) == files(away)
    assert bring(home, away).keys() == bring(away, home).keys() == {"unchanged"}


def test_as_if_it_had_run_here(home: Lab, away: Lab) -> None:
    """Runs of another clone are found, compared, loaded, and repeated bit for bit."""
    bring(home, away)
    for command in (["best", "model92"], ["diff", "model01/latest", "model92/best"]):
        here, there = (json.loads(said(lab, *command, "--json")) for lab in (home, away))
        assert here.keys() == there.keys()
        assert here.get("id") == there.get("id")
        assert here.get("differences") == there.get("differences")
    ((study,),) = query(
        away, "SELECT value FROM tags WHERE key = 'optuna.study' GROUP BY value HAVING count(*) > 1"
    )
    assert "verdict: identical" in said(away, "rerun", f"{study}/0")
    out, _ = away.python(
        f"""
        from src.utils.tracking import load_model

        print(load_model("{study}").weights.shape)
        """
    )
    assert out == "(8,)\n"


def test_killed_in_the_middle(home: Lab, away: Lab, stick: Path) -> None:
    """A pull that is killed has brought complete runs only; typed again, it brings the others."""
    database = away.root / "logs" / "mlruns" / "mlflow.db"
    process = away.start(sys.executable, "-m", "src.utils.lab.cli", "pull", stick)
    until(lambda: database.exists() and query(away, "SELECT 1 FROM runs LIMIT 1"))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    arrived = {run for (run,) in query(away, "SELECT run_uuid FROM runs")}
    whole = {file for file in files(home) if file.parts[2] in arrived}
    assert whole <= files(away).keys()
    said(away, "pull", stick)
    assert known(away) == known(home)
    assert files(away) == files(home)


def test_choice(home: Lab, tmp_path: Path) -> None:
    """Runs are chosen by experiment, filter, time and reference; what belongs to them comes along."""
    data = {"dataset/dataset01": 1, "feature/feature01": 1}
    choices = (
        (Choice(experiment="feature01"), data),
        (Choice(["model01/latest"]), data | {"model/model01": 1}),
        (Choice(where=["rate=0.1"]), {"model/model92": 3}),  # with a trial its study, and the other
        (Choice(where=["group.seed=1"]), {"model/model92": 3}),  # with a member its group
        (Choice(since="1h"), data | {"model/model01": 1, "model/model92": 7}),
    )
    runs = store_of(home).runs()
    for choice, expected in choices:
        assert Counter(run.experiment for run in choice.among(runs)) == expected
    folder = tmp_path / "new"
    assert "3 runs" in said(home, "push", folder, "-w", "rate=0.1", "--dry-run")
    assert "no run" in refused(home, "push", folder, "--since=2999-01-01")
    assert not folder.exists()
    with pytest.raises(UserError, match="2026-11-01"):
        Choice(since="yesterday").among(runs)


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
    there = Lab(output)
    assert bring(there, away) == {"new": len(others)}
    assert {run for (run,) in query(away, "SELECT run_uuid FROM runs")} == {*others}
    assert {file.parts[2] for file in files(away)} == {*others}
    away.client.delete_run(others[0])
    assert bring(there, away) == {"unchanged": len(others) - 1, "deleted": 1}
    assert "stay deleted" in said(away, "pull", output)


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
        with pytest.raises(UserError, match=advice):
            source_place(str(old))
    for place, refusal in (
        (other, "no runs"),
        (tmp_path / "nowhere", "not exist"),
        (ROOT, "itself"),
    ):
        with pytest.raises(UserError, match=refusal):
            source_place(str(place))
    for place, refusal in (
        (other, "other things"),
        (tmp_path / "nowhere" / "deep", "not exist"),
        (other / "holiday.jpg", "a file"),
    ):
        with pytest.raises(UserError, match=refusal):
            target_place(str(place))
    assert "itself" in refused(home, "push", ".")
    assert "no runs" in refused(away, "push", tmp_path / "new")
    assert [file.name for file in other.iterdir()] == ["holiday.jpg"]


def test_full_disk(home: Lab, away: Lab, tmp_path: Path) -> None:
    """Where a disk is full, a transfer ends in one line; what has arrived stays, and the next one goes on."""
    stick = tmp_path / "stick"
    typed_so = f"ulimit -f 100; exec {sys.executable} -m src.utils.lab.cli push {stick}"  # 100 kB
    process = home.start("bash", "-c", typed_so)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 2
    refusal = err.splitlines()[-1]  # before it, git may have warned that it could not keep the code
    assert refusal.startswith("error: File too large")
    assert "of 10 runs have arrived; type it again to go on" in refusal
    assert "Traceback" not in err
    outcomes = bring(home, stick)
    assert outcomes["unchanged"] > 0 < outcomes["new"]
    bring(stick, away)
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
