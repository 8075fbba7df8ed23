"""Whether all is well with this laboratory, as `lab doctor` tells: each finding says how to mend it."""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from src.utils.errors import UserError
from src.utils.lab.installation import check_installation
from src.utils.paths import LOGS, ROOT, STUDIES, display_path
from src.utils.process import is_gone
from src.utils.store.location import local_database
from src.utils.store.reader import RunReader, RunRecord, find_artifact, open_reader
from src.utils.terminal import format_size, lab_command

from rich import get_console
from rich.markup import escape

LITTLE, VERY_LITTLE = 5 * 10**9, 10**9  # bytes of disk
MARKS = {"good": "[green]✓[/]", "warning": "[yellow]![/]", "bad": "[red]✗[/]"}
SILENT = timedelta(days=1)  # after which a run that leaves no sign of life counts as dead


@dataclass(frozen=True)
class Finding:
    """What was looked at, how it is, and what to do where it isn't well."""

    subject: str
    said: str
    mend: str = ""
    level: str = "good"

    @classmethod
    def bad(cls, subject: str, said: str, mend: str) -> "Finding":
        return cls(subject, said, mend, "bad")

    @classmethod
    def warning(cls, subject: str, said: str, mend: str) -> "Finding":
        return cls(subject, said, mend, "warning")

    def say(self) -> None:
        console = get_console()
        line = f"{MARKS[self.level]} [bold]{self.subject:9}[/] {escape(self.said)}"
        console.print(line, highlight=False, soft_wrap=True)
        if self.mend:
            console.print(f"            → {escape(self.mend)}", highlight=False, soft_wrap=True)


def check(fix: bool = False) -> Iterator[Finding]:
    """One symptom after the other; `fix` closes runs whose process is gone."""
    yield from check_installation()
    yield from _databases()
    yield from _runs(fix)
    yield from _space()


def _databases() -> Iterator[Finding]:
    database = local_database()
    if database is None:
        yield Finding("store", f"{os.environ['MLFLOW_TRACKING_URI']}")
    elif not database.exists():
        yield Finding("store", "no runs yet", "bash scripts/run.sh makes the first")
    else:
        yield from _database("store", database)
        yield from _opened(database)
    if STUDIES.exists():
        yield from _database("studies", STUDIES)


def _database(subject: str, file: Path) -> Iterator[Finding]:
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as store:
            (sound,) = store.execute("PRAGMA quick_check(1)").fetchone()
            (mode,) = store.execute("PRAGMA journal_mode").fetchone()
    except sqlite3.DatabaseError as error:
        sound, mode = str(error), ""
    name = display_path(file)
    if sound != "ok":
        mend = (
            f"bring {name} back from a backup, or rescue what can be read: sqlite3 {name} .recover"
        )
        yield Finding.bad(subject, f"{name} is damaged: {sound}", mend)
    elif mode != "wal":
        mend = f"sqlite3 {name} 'PRAGMA journal_mode=WAL'"
        yield Finding.warning(subject, f"{name} is not in WAL mode: readers block writers", mend)
    else:
        yield Finding(subject, f"{name}, {format_size(file.stat().st_size)}, sound, in WAL mode")


def _opened(database: Path) -> Iterator[Finding]:
    """MLflow's own opinion, and whether the paths in the store are those of this folder."""
    from src.utils.store.mlflow import open_store  # late: it imports MLflow

    from mlflow.exceptions import MlflowException

    try:
        experiments = open_store().search_experiments()
    except (MlflowException, sqlite3.DatabaseError) as error:
        said = str(error).splitlines()[0]
        mend = f"mlflow db upgrade sqlite:///{database}, after a copy of the file"
        yield Finding.bad("store", f"MLflow can't open it: {said}", mend)
        return
    away = [
        one.name
        for one in experiments
        if not one.artifact_location.startswith(str(database.parent))
    ]
    if away:
        said = f"the artifacts of {', '.join(away)} are not beside the store"
        yield Finding.warning("store", said, "they stay where they are if the repository is moved")


def _runs(fix: bool) -> Iterator[Finding]:
    try:
        reader = open_reader()
    except UserError:
        return
    runs, dead = reader.runs(), orphans(reader)
    if fix:
        for one, why in dead:
            close(one, why)
            yield Finding("runs", f"{one.short} ({one.name}) is closed now: {why}")
    elif dead:
        names = ", ".join(f"{one.short} ({why})" for one, why in dead)
        yield Finding.bad(
            "runs", f"not running, though they say so: {names}", f"{lab_command()} doctor --fix"
        )
    alive = sum(one.status == "RUNNING" for one in runs) - len(dead)
    if alive or not dead:
        yield Finding("runs", f"{alive} running, {len(runs)} in all")


def _space() -> Iterator[Finding]:
    free = shutil.disk_usage(ROOT).free
    kept = format_size(sum(f.lstat().st_size for f in LOGS.rglob("*") if f.is_file()))
    said = f"{format_size(free)} free; logs/ takes {kept}"
    if free > LITTLE:
        yield Finding("disk", said)
    else:
        make = Finding.bad if free < VERY_LITTLE else Finding.warning
        yield make("disk", said, f"{lab_command()} gc shows what can go")


def orphans(reader: RunReader) -> list[tuple[RunRecord, str]]:
    """Those runs, each with how one knows."""
    running = reader.with_values([one for one in reader.runs() if one.status == "RUNNING"])
    return [(one, why) for one in running if (why := _cause(one))]


def _cause(one: RunRecord) -> str:
    """Why a run is dead; empty while it may live."""
    process = one.tags.get("process", "")
    if process and is_gone(process):
        return "its process is gone"
    silence = datetime.now().astimezone() - last_sign(one)
    local = process.split(" ")[0] == os.uname().nodename
    if silence > SILENT and not local:
        return f"no sign of life for {silence.days} days"
    return ""


def last_sign(one: RunRecord) -> datetime:
    """When a run last wrote something."""
    folder = find_artifact(one, "")
    files = [file for file in folder.rglob("*") if file.is_file()] if folder else []
    times = [datetime.fromtimestamp(file.stat().st_mtime).astimezone() for file in files]
    return max([*times, one.started or datetime.min.astimezone()])


def close(one: RunRecord, why: str) -> None:
    """End a dead run in MLflow, at the moment of its last sign of life."""
    from src.utils.store.mlflow import open_store  # late: it imports MLflow

    client = open_store()
    client.set_tag(one.id, "reason", why)
    client.set_terminated(one.id, "KILLED", int(last_sign(one).timestamp() * 1000))


# MERGED lab/symptom: One thing that was looked at by `lab doctor`, how it is, and how to mend it.

# MERGED lab/orphans: Runs that say they are running, and are not: their process was killed before it could say so.
