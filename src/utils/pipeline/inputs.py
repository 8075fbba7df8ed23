"""The inputs of an experiment: the datasets and features that its settings `dataset` and `feature` name.

A missing input is built before the experiment runs. One that is out of date is built again, unless
`stale=ignore`.
"""

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
from src.utils.pipeline.recipe import Recipe, reasons_to_rebuild
from src.utils.settings import Settings, format_override_value
from src.utils.study.trial import TRIAL

log = logging.getLogger(__name__)


def find_inputs(settings: Settings) -> list[Experiment]:
    """The datasets and features that the settings name: each setting is one name, or a list.

    Raises:
        UserError: a name has neither code nor data; the message lists those that have.
    """
    named = [(stage, name) for stage in DATA for name in _names(getattr(settings, stage, None))]
    return [_find_input(stage, name) for stage, name in dict.fromkeys(named)]


def _names(value: Any) -> list[str]:
    """`feature01`, `[feature01, feature02]`, or nothing."""
    if value is None or isinstance(value, str):
        return [] if value is None else [value]
    return [str(name) for name in value] if isinstance(value, Iterable) else [str(value)]


def _find_input(stage: str, name: str) -> Experiment:
    code = {file.parent.name for file in (ROOT / "src" / stage).glob("*/*.py")}
    data = {file.parent.name for file in DATA[stage].glob("*/manifest.json")}
    if name in code | data:
        return Experiment(stage, name)
    near = get_close_matches(name, sorted(code | data), n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    known = ", ".join(sorted(code | data)) or "none yet"
    raise UserError(f"{stage}={format_override_value(name)} is refused: there are {known}{hint}")


def prepare_inputs(settings: Settings, check: bool = True) -> list[Manifest]:
    """Build the inputs that are missing or out of date, and return the manifests of all.

    Args:
        check: whether to look for inputs that are out of date; an earlier check may be enough.

    Raises:
        UserError: an input doesn't exist, can't be built, or has other folds than the settings ask for.
    """
    manifests = [_prepare_input(one, settings, check) for one in find_inputs(settings)]
    _check_folds(settings, manifests)
    return manifests


def _check_folds(settings: Settings, manifests: list[Manifest]) -> None:
    """Compare the setting `folds` with the number that the inputs have, in their metadata."""
    folds = getattr(settings, "folds", 1)
    for manifest in manifests:
        there = manifest.metadata.get("folds", str(folds))
        if folds > 1 and there != str(folds):
            raise UserError(
                f"folds={folds} is refused: {manifest.experiment} has {there} folds; type folds={there}, or "
                f"build it with folds={folds} first"
            )


def prepare_inputs_of_sweep(settings: Iterable[Settings]) -> None:
    """Prepare the inputs of all trials of a sweep once. The trials use them without a check.

    Raises:
        UserError: an input doesn't exist, or can't be built.
    """
    by_inputs = {tuple(find_inputs(trial)): trial for trial in settings}
    for trial in by_inputs.values():
        prepare_inputs(trial)


def _prepare_input(experiment: Experiment, settings: Settings, check: bool) -> Manifest:
    manifest = Manifest.read(experiment)
    if manifest is None:
        log.info("%s is missing: building it first", experiment)
        return _build(experiment, None, "could not be built: the lines above say why")
    reasons = "; ".join(reasons_to_rebuild(experiment, manifest)) if check else ""
    if reasons and settings.stale == "ignore":
        log.warning("%s is OUT OF DATE and used as it is (stale=ignore): %s", experiment, reasons)
    elif reasons:
        log.info("%s is out of date (%s): building it again", experiment, reasons)
        failure = (
            "could not be built again: the lines above say why; stale=ignore uses the old data"
        )
        return _build(experiment, Recipe.load(experiment, manifest), failure)
    return manifest


def _build(experiment: Experiment, recipe: Recipe | None, failure: str) -> Manifest:
    """Run the program of a stage as a separate command, which is no part of a trial."""
    environment = {key: value for key, value in os.environ.items() if key != TRIAL}
    command = [sys.executable, str(experiment.program()), *(recipe.arguments if recipe else [])]
    folder = recipe.working_folder if recipe else None
    if subprocess.run(command, check=False, env=environment, cwd=folder).returncode != 0:
        raise UserError(f"{experiment} {failure}")
    manifest = Manifest.read(experiment)
    assert manifest is not None
    return manifest
