"""`lab doctor`: check the installation, the stores, runs whose process is gone, and disk space.

Each finding says how to fix it. The checks of the installation are in `installation.py`.
"""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

from src.utils.errors import UserError
from src.utils.lab.finding import Finding
from src.utils.lab.installation import check_installation
from src.utils.paths import LOGS, ROOT, STUDIES, display_path
from src.utils.process import is_of_this_host
from src.utils.runs.heartbeat import is_running
from src.utils.store.location import local_database
from src.utils.store.reader import RunReader, find_artifact, open_reader
from src.utils.store.record import HEARTBEAT, PROCESS, REASON, RunRecord
from src.utils.store.reference import list_members, without_members
from src.utils.terminal import format_age, format_size, lab_command

LOW_DISK, VERY_LOW_DISK = 5 * 10**9, 10**9  # bytes that are free
INACTIVE = timedelta(days=1)  # after which a run on another machine counts as dead


def check(close_dead: bool = False) -> Iterator[Finding]:
    """Run all checks; `close_dead` ends the runs whose process is gone."""
    yield from check_installation()
    yield from _check_stores()
    yield from _check_runs(close_dead)
    yield from _check_disk()


def _check_stores() -> Iterator[Finding]:
    database = local_database()
    if database is None:
        yield Finding("store", f"{os.environ['MLFLOW_TRACKING_URI']}")
    elif not database.exists():
        yield Finding("store", "no runs yet", "bash scripts/run.sh makes the first")
    else:
        yield _check_database("store", database)
        yield from _check_mlflow(database)
    if STUDIES.exists():
        yield _check_database("studies", STUDIES)


def _check_database(subject: str, file: Path) -> Finding:
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as database:
            (result,) = database.execute("PRAGMA quick_check(1)").fetchone()
            (mode,) = database.execute("PRAGMA journal_mode").fetchone()
    except sqlite3.DatabaseError as error:
        result, mode = str(error), ""
    name = display_path(file)
    if result != "ok":
        fix = f"restore {name} from a backup, or rescue what can be read: sqlite3 {name} .recover"
        return Finding.bad(subject, f"{name} is damaged: {result}", fix)
    if mode != "wal":
        fix = f"sqlite3 {name} 'PRAGMA journal_mode=WAL'"
        return Finding.warning(subject, f"{name} is not in WAL mode: readers block writers", fix)
    return Finding(subject, f"{name}, {format_size(file.stat().st_size)}, intact, in WAL mode")


def _check_mlflow(database: Path) -> Iterator[Finding]:
    """Whether MLflow opens the store, and whether artifacts are beside it."""
    from src.utils.store.mlflow import open_store  # late: it imports MLflow

    from mlflow.exceptions import MlflowException

    try:
        experiments = open_store().search_experiments()
    except (MlflowException, sqlite3.DatabaseError) as error:
        message = f"MLflow can't open it: {str(error).splitlines()[0]}"
        fix = f"mlflow db upgrade sqlite:///{database}, after a copy of the file"
        yield Finding.bad("store", message, fix)
        return
    folder = str(database.parent)
    away = [one.name for one in experiments if not one.artifact_location.startswith(folder)]
    if away:
        message = f"the artifacts of {', '.join(away)} are not beside the store"
        fix = "nothing to do, but they do not move with the repository"
        yield Finding.warning("store", message, fix)


def _check_runs(close_dead: bool) -> Iterator[Finding]:
    try:
        reader = open_reader()
    except UserError:
        return
    runs, dead = without_members(reader, reader.runs()), _dead_runs(reader)
    if close_dead:
        for run, reason in dead:
            _close_run(run, reason)
            yield Finding("runs", f"{run.short} ({run.name}) is closed now: {reason}")
    elif dead:
        names = ", ".join(f"{run.short} ({reason})" for run, reason in dead)
        message = f"not running, but marked as running: {names}"
        yield Finding.bad("runs", message, f"{lab_command()} doctor --fix")
    ended = {run.id for run, _ in dead}
    alive = sum(run.status == "RUNNING" and run.id not in ended for run in runs)
    if alive or not dead:
        yield Finding("runs", f"{alive} running, {len(runs)} in all")


def _dead_runs(reader: RunReader) -> list[tuple[RunRecord, str]]:
    """Runs that were killed before they could set their status, each with the reason."""
    running = reader.with_values([run for run in reader.runs() if run.status == "RUNNING"])
    return [(run, reason) for run in running if (reason := _death_reason(reader, run))]


def _death_reason(reader: RunReader, record: RunRecord) -> str:
    """Empty while the run may be alive."""
    is_local = is_of_this_host(record.tags.get(PROCESS, ""))
    if not is_running(record.status, record.tags):
        return "its process is gone" if is_local else f"last heartbeat {format_age(_beat(record))}"
    if is_local or HEARTBEAT in record.tags:
        return ""
    members = list_members(reader, record) if record.is_group else []
    inactive = datetime.now().astimezone() - max(map(_last_activity, [record, *members]))
    return f"no sign of life for {inactive.days} days" if inactive > INACTIVE else ""


def _last_activity(record: RunRecord) -> datetime:
    """The time of its last heartbeat; of the newest artifact in a run of an earlier version."""
    if HEARTBEAT in record.tags:
        return _beat(record)
    folder = find_artifact(record, "")
    files = [file for file in folder.rglob("*") if file.is_file()] if folder else []
    times = [datetime.fromtimestamp(file.stat().st_mtime).astimezone() for file in files]
    return max([*times, record.started or datetime.min.astimezone()])


def _beat(record: RunRecord) -> datetime:
    return datetime.fromtimestamp(float(record.tags[HEARTBEAT])).astimezone()


def _close_run(record: RunRecord, reason: str) -> None:
    """Set the status KILLED in MLflow, with the time of the last activity as the end."""
    from src.utils.store.mlflow import open_store  # late: it imports MLflow

    client = open_store()
    client.set_tag(record.id, REASON, reason)
    client.set_terminated(record.id, "KILLED", int(_last_activity(record).timestamp() * 1000))


def _check_disk() -> Iterator[Finding]:
    free = shutil.disk_usage(ROOT).free
    used = format_size(sum(f.lstat().st_size for f in LOGS.rglob("*") if f.is_file()))
    message = f"{format_size(free)} free; logs/ takes {used}"
    if free > LOW_DISK:
        yield Finding("disk", message)
    else:
        level = Finding.bad if free < VERY_LOW_DISK else Finding.warning
        yield level("disk", message, f"{lab_command()} gc lists unused files")
