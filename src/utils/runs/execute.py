"""Stages meet on disk: what one wrote to `_data/<stage>/<experiment>` is what the next one reads."""

import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.utils.paths import DATA, Experiment
from src.utils.pipeline.inputs import prepare
from src.utils.pipeline.manifest import Manifest, digest_of, digests, fingerprint
from src.utils.pipeline.recipe import Recipe
from src.utils.process import RERUN, follows
from src.utils.settings import Settings
from src.utils.study.trial import TrialLink, optuna_pruned

from filelock import FileLock
from hydra.core.hydra_config import HydraConfig

if TYPE_CHECKING:
    from src.utils.run import Run
    from src.utils.runs.resume import Resumption

log = logging.getLogger(__name__)
Main = Callable[[Any, Any], Any]
NAME = "objective"


def execute(here: Experiment, main: Main, settings: Settings) -> Any:
    """Run an experiment: build what it needs, skip what is done, track the rest."""
    return (_build if here.stage in DATA else _train)(here, main, settings)


def _is_checked(resumption: "Resumption | None") -> bool:
    """Whether the data are not to be checked here: a sweep and a leading process did that for theirs, a
    resumed training goes on with the data it had or not at all, and so does a rerun."""
    resumes = resumption is not None and not resumption.fork
    return TrialLink.current() is not None or follows() or RERUN in os.environ or resumes


def _train(here: Experiment, main: Main, settings: Settings) -> Any:
    from src.utils.run import tracked
    from src.utils.runs.resume import resumed
    from src.utils.runs.summary import say_summary

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


def record_objective(run: "Run", settings: Settings, value: Any) -> None:
    """The tag `monitor`, by which leaderboards sort, for a run that has none: without Lightning there is
    no trainer that sets it. It names the setting `monitor`, if that was logged, or what was returned."""
    if not run.leads or "monitor" in run.client.get_run(run.id).data.tags:
        return
    monitor = getattr(settings, "monitor", None)
    if monitor in run.metrics.latest:
        mode = getattr(settings, "mode", None) or _mode(settings)
        run.tag({"monitor": f"{monitor} {mode}"})
        return
    number = _number(value)
    if number is not None:
        run.log({NAME: number})
        run.tag({"monitor": f"{NAME} {_mode(settings)}"})


def _mode(settings: Settings) -> str:
    """As a sweep would take it: its direction, or else the setting `mode`."""
    direction = HydraConfig.get().sweeper.get("direction")
    if direction is None:
        return getattr(settings, "mode", None) or "min"
    return "max" if "max" in str(direction).lower() else "min"


def _number(value: Any) -> float | None:
    """One finite number, of whatever library; several objectives have no order."""
    try:
        number = None if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        return None
    return number if number is not None and math.isfinite(number) else None


# MERGED execution/objective: What `main` returned, where nothing else says what an experiment is after: its metric `objective`.
