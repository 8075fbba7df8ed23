"""Runs that say they are running, and are not: their process was killed before it could say so."""

import os
from datetime import datetime, timedelta

from src.utils.execution.process import is_gone
from src.utils.store.entry import Entry
from src.utils.store.ledger import Ledger, artifact

SILENT = timedelta(days=1)  # after which a run that leaves no sign of life counts as dead


def orphans(ledger: Ledger) -> list[tuple[Entry, str]]:
    """Those runs, each with how one knows."""
    running = ledger.filled([one for one in ledger.headers() if one.status == "RUNNING"])
    return [(one, why) for one in running if (why := _cause(one))]


def _cause(one: Entry) -> str:
    """Why a run is dead; empty while it may live."""
    process = one.tags.get("process", "")
    if process and is_gone(process):
        return "its process is gone"
    silence = datetime.now().astimezone() - last_sign(one)
    local = process.split(" ")[0] == os.uname().nodename
    if silence > SILENT and not local:
        return f"no sign of life for {silence.days} days"
    return ""


def last_sign(one: Entry) -> datetime:
    """When a run last wrote something."""
    folder = artifact(one, "")
    files = [file for file in folder.rglob("*") if file.is_file()] if folder else []
    times = [datetime.fromtimestamp(file.stat().st_mtime).astimezone() for file in files]
    return max([*times, one.started or datetime.min.astimezone()])


def close(one: Entry, why: str) -> None:
    """End a dead run in MLflow, at the moment of its last sign of life."""
    from src.utils.store.client import open_store  # late: it imports MLflow

    client = open_store()
    client.set_tag(one.id, "reason", why)
    client.set_terminated(one.id, "KILLED", int(last_sign(one).timestamp() * 1000))
