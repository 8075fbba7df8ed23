"""`lab gc` and `lab doctor`: removing unused files, and finding problems with their fixes."""

import os
import shutil
import sqlite3
import time
from pathlib import Path

import psutil
from conftest import Lab
from laboratory import a_changeable_one, a_laboratory, said, typed  # noqa: F401  fixtures
from test_lab import history

LONG_AGO = time.time() - 7200


def age(folder: Path) -> None:
    """As if nothing had changed there for hours."""
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (LONG_AGO, LONG_AGO), follow_symlinks=False)


def stale_folder(lab: Lab, name: str) -> Path:
    folder = lab.root / name
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text("x" * 1000)
    age(folder)
    return folder


def test_gc_shows_first(changeable: Lab) -> None:
    """Nothing is removed without confirmation; unused files are listed with their sizes."""
    said(changeable, "runs")
    old = stale_folder(changeable, "outputs/model/model01/2026-01-01/00-00-00-aaaa")
    before = set(changeable.files())
    text = said(changeable, "gc")
    assert str(old.relative_to(changeable.root)) in text
    assert "1.0 kB" in text
    assert "nothing was removed" in text
    assert set(changeable.files()) == before


def test_gc(changeable: Lab) -> None:
    """Artifacts of deleted runs, folders without a run and surplus checkpoints are removed, nothing else."""
    said(changeable, "runs")
    for top in ("outputs", "multirun"):
        age(changeable.root / top)
    runs = history(changeable)
    artifacts = {what: changeable.artifacts(run) for what, run in runs.items()}
    best = runs["study"].data.tags["best.run_id"]
    (best_trial,) = [what for what, run in runs.items() if run.info.run_id == best]
    stale = stale_folder(changeable, "outputs/model/model01/2026-01-01/00-00-00-aaaa")
    lost = stale_folder(changeable, f"logs/mlruns/model/model01/{'0' * 32}")
    fresh = stale_folder(changeable, "outputs/model/model01/2026-01-01/00-00-00-bbbb")
    (fresh / "just now").touch()
    rerun = stale_folder(changeable, "outputs/reruns/3f2a1b2c/src/model")
    surplus = [
        artifacts[what] / "checkpoints/epoch=1.ckpt" for what in ("first", best_trial, "doomed")
    ]
    for file in surplus:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"x" * 100)
    for what in ("seed 1", best_trial):
        changeable.client.delete_run(runs[what].info.run_id)
    job = changeable.root / runs["seed 1"].data.tags["hydra.output"]
    kept = set(changeable.files())

    said(changeable, "gc", "--yes")
    gone = {path for path in kept if not (changeable.root / path).exists()}
    places = (artifacts["seed 1"].parent, stale, lost, job)
    allowed = [place.relative_to(changeable.root) for place in places]
    multirun = changeable.root / runs[best_trial].data.tags["hydra.output"]
    assert not any(place.exists() for place in places)
    assert gone - {path for path in gone if any(path.is_relative_to(one) for one in allowed)} == {
        surplus[0].relative_to(changeable.root)
    }
    assert surplus[1].exists()  # the best of a study, though its run was deleted
    assert surplus[2].exists()  # a run that failed may still need it
    assert fresh.exists()
    assert rerun.exists()
    assert multirun.exists()  # its study still has it
    assert "nothing to remove" in said(changeable, "gc")


def test_doctor_without_problems(laboratory: Lab) -> None:
    """Without problems, every line has a check mark."""
    lines = typed(laboratory, "doctor").stdout.splitlines()
    for subject in ("python", "git", "store", "studies", "runs", "gpu"):
        assert [line[0] for line in lines if line[2:11].strip() == subject] == ["✓"]
    assert any("poetry.lock" in line for line in lines)  # as it is, or not: that is this machine's


def test_doctor_closes_dead_runs(changeable: Lab) -> None:
    """A run whose process is gone is found, and closed only with --fix; a live one is left alone."""
    said(changeable, "runs")
    runs = history(changeable)
    dead, alive = (runs[what].info.run_id for what in ("seed 1", "seed 2"))
    for run_id in (dead, alive):
        changeable.client.update_run(run_id, "RUNNING")
    host, pid = os.uname().nodename, os.getpid()
    me = f"{host} {pid} {psutil.Process().create_time():.0f}"
    changeable.client.set_tag(alive, "process", me)
    changeable.client.set_tag(dead, "process", f"{host} {pid} 1")
    found = typed(changeable, "doctor")
    assert found.returncode == 1
    assert dead[:8] in found.stdout
    assert alive[:8] not in found.stdout
    assert "doctor --fix" in found.stdout
    assert changeable.client.get_run(dead).info.status == "RUNNING"
    typed(changeable, "doctor", "--fix")
    assert changeable.client.get_run(dead).info.status == "KILLED"
    assert changeable.client.get_run(dead).data.tags["reason"] == "its process is gone"
    assert changeable.client.get_run(dead).info.end_time < time.time() * 1000
    assert changeable.client.get_run(alive).info.status == "RUNNING"


def test_doctor_finds_old_runs(changeable: Lab) -> None:
    """A run on another machine counts as dead without a heartbeat; one of an earlier version, which had none,
    after a day without a new artifact."""
    said(changeable, "runs")
    run = history(changeable)["seed 1"]
    changeable.client.update_run(run.info.run_id, "RUNNING")
    changeable.client.set_tag(run.info.run_id, "process", "elsewhere 1 1")
    changeable.client.set_tag(run.info.run_id, "heartbeat", str(time.time() - 600))
    assert (
        f"{run.info.run_id[:8]} (last heartbeat 10 min ago)" in typed(changeable, "doctor").stdout
    )
    changeable.client.delete_tag(run.info.run_id, "heartbeat")
    assert run.info.run_id[:8] not in typed(changeable, "doctor").stdout
    database = changeable.root / "logs/mlruns/mlflow.db"
    with sqlite3.connect(database) as store:
        store.execute("UPDATE runs SET start_time = 1 WHERE run_uuid = ?", (run.info.run_id,))
    store.close()
    folder = changeable.artifacts(run)
    for path in folder.rglob("*"):
        os.utime(path, (1, 1))
    found = typed(changeable, "doctor")
    assert f"{run.info.run_id[:8]} (no sign of life for " in found.stdout
    assert found.returncode == 1


def test_doctor_sees_damage(changeable: Lab) -> None:
    """A damaged store and packages other than locked are named, each with its fix."""
    lock = changeable.root / "poetry.lock"
    lock.write_text(
        lock.read_text().replace('name = "rich"\nversion = "', 'name = "rich"\nversion = "0.')
    )
    database = changeable.root / "logs/mlruns/mlflow.db"
    database.write_bytes(database.read_bytes()[:20000])
    for more in ("-wal", "-shm"):
        database.with_name(f"mlflow.db{more}").unlink(missing_ok=True)
    found = typed(changeable, "doctor")
    assert found.returncode == 1
    assert "instead of 0." in found.stdout
    assert "is damaged" in found.stdout
    assert found.stdout.count("→") >= 2
    assert "Traceback" not in found.stderr
    assert shutil.which("git") and "✓ git" in found.stdout
