"""The data that a run read, as they are today; loud where they are no longer the same.

from src.utils.data import data_of_run
folder = data_of_run("3f2a")                 # the feature that the run 3f2a read
folder = data_of_run("3f2a", "feature02")    # one of several
"""

import logging
from collections.abc import Iterator
from pathlib import Path

from src.utils.errors import UserError
from src.utils.execution.manifest import Manifest
from src.utils.layout import Experiment
from src.utils.store.entry import Entry, Used
from src.utils.store.finding import find
from src.utils.store.ledger import Ledger, open_ledger

log = logging.getLogger(__name__)
NO_DIFFERENCE = ("note", "tags", "force", "stale")  # settings that change no data


def data_of_run(run_id: str, name: str = "feature") -> Path:
    """The folder that `run.input(name)` was in a run. Warns where it holds other data now, and says what
    they differ in.

    Raises:
        UserError: the run read no such data, or several; or they are not there any more.
    """
    ledger = open_ledger()
    run = find(run_id, ledger=ledger)
    used = _used(ledger, run, name)
    what = Experiment.named(used.name)
    manifest = Manifest.read(what)
    if manifest is None:
        raise UserError(f"the data of {what}, which run {run.short} read, are not there any more")
    if not manifest.digest.startswith(used.digest):
        log.warning(
            "OTHER DATA: %s is not what run %s read: %s",
            what,
            run.short,
            "; ".join(_differences(ledger, run, used, manifest)),
        )
    return what.data


def _used(ledger: Ledger, run: Entry, name: str) -> Used:
    read = [one for one in ledger.inputs(run.id) if one.context == "input"]
    match [one for one in read if name in (one.name, *one.name.split("/"))]:
        case [one]:
            return one
    there = ", ".join(one.name for one in read) or "no data"
    raise UserError(f"run {run.short} read {there}: name one of these, not {name!r}")


def _differences(ledger: Ledger, run: Entry, used: Used, now: Manifest) -> Iterator[str]:
    """Digests, facts, and the settings of the two runs that made the data, where they are still known."""
    yield f"digest {used.digest[:8]} then, {now.digest[:8]} today"
    for key, value in now.facts.items():
        before = run.tags.get(f"data.{key}")
        if before not in (None, value):
            yield f"{key}={before} then, {value} today"
    makers = {one.id: one for one in ledger.headers() if one.id in (used.run_id, now.run_id)}
    if len(makers) == 2:
        old, new = ledger.filled([makers[used.run_id], makers[now.run_id]])
        for key in sorted({*old.params, *new.params} - {*NO_DIFFERENCE}):
            if old.params.get(key) != new.params.get(key):
                yield f"{key}={old.params.get(key)} then, {new.params.get(key)} today"
