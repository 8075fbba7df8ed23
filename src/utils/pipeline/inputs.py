"""The datasets and features that an experiment reads, as its settings name them."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from src.utils.errors import UserError
from src.utils.paths import DATA, ROOT, Experiment
from src.utils.pipeline.manifest import Manifest
from src.utils.pipeline.recipe import Recipe, changes
from src.utils.settings import Settings, as_typed
from src.utils.study.trial import TRIAL

log = logging.getLogger(__name__)


def inputs_of(settings: Settings) -> list[Experiment]:
    """What the settings `dataset` and `feature` name: one each, or a list.

    Raises:
        UserError: there is none of that name; says which there are.
    """
    named = [(stage, name) for stage in DATA for name in _names(getattr(settings, stage, None))]
    return [_known(stage, name) for stage, name in dict.fromkeys(named)]


def _names(value: Any) -> list[str]:
    """`feature01`, `[feature01, feature02]`, or nothing."""
    if value is None or isinstance(value, str):
        return [] if value is None else [value]
    return [str(name) for name in value] if isinstance(value, Iterable) else [str(value)]


def _known(stage: str, name: str) -> Experiment:
    """Its code is there, or at least its data are."""
    code = {file.parent.name for file in (ROOT / "src" / stage).glob("*/*.py")}
    data = {file.parent.name for file in DATA[stage].glob("*/manifest.json")}
    if name in code | data:
        return Experiment(stage, name)
    near = get_close_matches(name, sorted(code | data), n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    there = ", ".join(sorted(code | data)) or "none yet"
    raise UserError(f"{stage}={as_typed(name)} is refused: there are {there}{hint}")


def prepare(settings: Settings, check: bool = True) -> list[Manifest]:
    """The manifests of what an experiment reads; what is missing is built, and what is out of date is
    built again, unless `stale=ignore` or an earlier check stands for this one."""
    return [_ready(source, settings, check) for source in inputs_of(settings)]


def prepare_all(settings: Iterable[Settings]) -> None:
    """The same for all trials of a sweep, once: they take what is there then."""
    for one in {tuple(inputs_of(one)): one for one in settings}.values():
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
