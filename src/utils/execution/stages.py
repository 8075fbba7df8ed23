"""Stages meet on disk: what one wrote to `_data/<stage>/<experiment>` is what the next one reads."""

import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from src.utils.errors import UserError
from src.utils.execution.manifest import Manifest, digest_of, digests, fingerprint
from src.utils.layout import DATA, Experiment
from src.utils.settings import Settings
from src.utils.sweep.trial import optuna_pruned

from filelock import FileLock

log = logging.getLogger(__name__)
Main = Callable[[Any, Any], Any]


def execute(here: Experiment, main: Main, settings: Settings) -> Any:
    """Run an experiment: build what it needs, skip what is done, track the rest."""
    return (_build if here.stage in DATA else _train)(here, main, settings)


def _sources(settings: Settings) -> list[Experiment]:
    """The settings `dataset` and `feature` name the folders that an experiment reads."""
    named = ((stage, getattr(settings, stage, None)) for stage in DATA)
    return [Experiment(stage, name) for stage, name in named if name]


def _ready(what: Experiment) -> Manifest:
    """The manifest of a dataset or feature, which is built first when it is missing."""
    manifest = Manifest.read(what)
    if manifest is None:
        log.info("%s is missing: building it first", what)
        if subprocess.run([sys.executable, what.program()], check=False).returncode != 0:
            raise UserError(f"{what} could not be built: the lines above say why")
        manifest = Manifest.read(what)
        assert manifest is not None
    return manifest


def _train(here: Experiment, main: Main, settings: Settings) -> Any:
    from src.utils.execution.record import RERUN
    from src.utils.execution.resuming import resumed
    from src.utils.execution.summary import say_summary
    from src.utils.run import tracked

    from pytorch_lightning import seed_everything  # late: not every stage needs torch

    began = time.monotonic()
    settings, resumption = resumed(here, settings)
    sources = [_ready(source) for source in _sources(settings)]
    if resumption is not None:
        resumption.check(here, sources)
    with tracked(here, settings, sources, resumption) as run:
        if run.facts.get("source") == "sample":
            log.warning("SAMPLE DATA: a small part of the data set; see README, «Data»")
        seed_everything(settings.seed, workers=True, verbose=False)
        with optuna_pruned():
            value = main(settings, run)
    if run.leads and run.trial is None and RERUN not in os.environ:
        say_summary(run, settings, time.monotonic() - began)
    return value


def _build(here: Experiment, main: Main, settings: Settings) -> None:
    sources = [_ready(source) for source in _sources(settings)]
    here.data.parent.mkdir(parents=True, exist_ok=True)
    inputs = fingerprint(here, settings, sources)
    with FileLock(here.data.with_name(f".{here.name}.lock")):
        present = Manifest.read(here)
        if present and present.fingerprint == inputs and not getattr(settings, "force", False):
            facts = "".join(f", {key}={value}" for key, value in present.facts.items())
            log.info("%s is up to date%s (force=true does it again)", here, facts)
            return
        from src.utils.run import tracked  # late: a stage that is up to date needs no MLflow

        with tracked(here, settings, sources) as run, _replacing(here.data) as run.output:
            main(settings, run)
            files = digests(run.output)
            made = Manifest(str(here), inputs, digest_of(files), files, run.id, run.facts)
            made.write(run.output)
            run.used(made, "output")


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
