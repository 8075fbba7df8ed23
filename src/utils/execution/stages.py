"""Stages meet on disk: what one wrote to `_data/<stage>/<experiment>` is what the next one reads."""

import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.utils.errors import UserError
from src.utils.execution.manifest import Manifest, digest_of, digests, fingerprint
from src.utils.execution.process import RERUN, follows
from src.utils.execution.recipe import Recipe, changes
from src.utils.execution.sources import sources_of
from src.utils.layout import DATA, Experiment
from src.utils.settings import Settings
from src.utils.sweep.trial import ENV as TRIAL
from src.utils.sweep.trial import TrialLink, optuna_pruned

from filelock import FileLock

if TYPE_CHECKING:
    from src.utils.execution.resuming import Resumption

log = logging.getLogger(__name__)
Main = Callable[[Any, Any], Any]


def execute(here: Experiment, main: Main, settings: Settings) -> Any:
    """Run an experiment: build what it needs, skip what is done, track the rest."""
    return (_build if here.stage in DATA else _train)(here, main, settings)


def prepare(settings: Settings, check: bool = True) -> list[Manifest]:
    """The manifests of what an experiment reads; what is missing is built, and what is out of date is
    built again, unless `stale=ignore` or an earlier check stands for this one."""
    return [_ready(source, settings, check) for source in sources_of(settings)]


def prepare_all(settings: Iterable[Settings]) -> None:
    """The same for all trials of a sweep, once: they take what is there then."""
    for one in {tuple(sources_of(one)): one for one in settings}.values():
        prepare(one)


def _ready(what: Experiment, settings: Settings, check: bool) -> Manifest:
    manifest = Manifest.read(what)
    if manifest is None:
        log.info("%s is missing: building it first", what)
        return _made(what, None, "could not be built: the lines above say why")
    reasons = "; ".join(changes(what, manifest)) if check else ""
    if reasons and settings.stale == "ignore":
        log.warning("%s is OUT OF DATE and used as it is (stale=ignore): %s", what, reasons)
    elif reasons:
        log.info("%s is out of date (%s): building it again", what, reasons)
        return _made(
            what,
            Recipe.of(what, manifest),
            "could not be built again: the lines above say why; stale=ignore uses what is there",
        )
    return manifest


def _made(what: Experiment, recipe: Recipe | None, failure: str) -> Manifest:
    """Run the program of a stage, as a command of its own: it is no part of a trial."""
    environment = {key: value for key, value in os.environ.items() if key != TRIAL}
    command = [sys.executable, str(what.program()), *(recipe.command_line if recipe else [])]
    place = recipe.folder if recipe else None
    if subprocess.run(command, check=False, env=environment, cwd=place).returncode != 0:
        raise UserError(f"{what} {failure}")
    manifest = Manifest.read(what)
    assert manifest is not None
    return manifest


def _is_checked(resumption: "Resumption | None") -> bool:
    """Whether the data are not to be checked here: a sweep and a leading process did that for theirs, a
    resumed training goes on with the data it had or not at all, and so does a rerun."""
    resumes = resumption is not None and not resumption.fork
    return TrialLink.current() is not None or follows() or RERUN in os.environ or resumes


def _train(here: Experiment, main: Main, settings: Settings) -> Any:
    from src.utils.execution.objective import record_objective
    from src.utils.execution.resuming import resumed
    from src.utils.execution.summary import say_summary
    from src.utils.run import tracked

    from pytorch_lightning import seed_everything  # late: not every stage needs torch

    began = time.monotonic()
    settings, resumption = resumed(here, settings)
    sources = prepare(settings, check=not _is_checked(resumption))
    if resumption is not None:
        resumption.check(here, sources)
    with tracked(here, settings, sources, resumption) as run:
        if "sample" in run.facts.get("source", "").split("+"):
            log.warning("SAMPLE DATA: a small part of the data set; see README, «Data»")
        seed_everything(settings.seed, workers=True, verbose=False)
        with optuna_pruned():
            value = main(settings, run)
        record_objective(run, settings, value)
    if run.leads and run.trial is None and RERUN not in os.environ:
        say_summary(run, settings, time.monotonic() - began)
    return value


def _build(here: Experiment, main: Main, settings: Settings) -> None:
    sources = prepare(settings, check=not _is_checked(None))
    here.data.parent.mkdir(parents=True, exist_ok=True)
    inputs = fingerprint(here, settings, sources)
    recipe = Recipe.current(here, settings, sources)  # now: who knows what is edited meanwhile
    with FileLock(here.data.with_name(f".{here.name}.lock")):
        present = Manifest.read(here)
        if present and present.fingerprint == inputs and not getattr(settings, "force", False):
            facts = "".join(f", {key}={value}" for key, value in present.facts.items())
            log.info("%s is up to date%s (force=true does it again)", here, facts)
            recipe.keep(here, present)  # what was typed last of what gives the same
            return
        from src.utils.run import tracked  # late: a stage that is up to date needs no MLflow

        with tracked(here, settings, sources) as run, _replacing(here.data) as run.output:
            main(settings, run)
            files = digests(run.output)
            made = Manifest(str(here), inputs, digest_of(files), files, run.id, run.facts)
            made.write(run.output)
            run.used(made, "output")
        recipe.keep(here, made)


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """A draft that takes the folder's place when all went well: killed at any moment, it leaves
    what was there before, or nothing."""
    draft, old = folder.with_name(f".{folder.name}.draft"), folder.with_name(f".{folder.name}.old")
    for left_behind in (draft, old):
        shutil.rmtree(left_behind, ignore_errors=True)
    draft.mkdir()
    try:
        yield draft
    except BaseException:
        shutil.rmtree(draft)
        raise
    if folder.exists():
        folder.rename(old)
    draft.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
