"""The inputs of an experiment: the data that its settings name, each by the stage that makes them.

`feature: feature01` reads feature/feature01, `dataset: [dataset01, dataset02]` two datasets, and
`embedding: embedding01` what an experiment of a stage of one's own has made, src/embedding/embedding01.
A missing input is built before the experiment runs. One that is out of date is built again, unless
`stale=ignore`.
"""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from src.utils.config.settings_class import makes_data, read_settings_class
from src.utils.errors import UserError
from src.utils.notification import notifier
from src.utils.paths import ROOT, STAGES, Experiment, data_folder, is_program, list_stages
from src.utils.pipeline.manifest import FILE_NAME, Manifest
from src.utils.pipeline.pins import find_pinned, read_pins
from src.utils.pipeline.recipe import Recipe, reasons_to_rebuild
from src.utils.pipeline.versions import version_in_use
from src.utils.process import BUILDING, INPUTS, RERUN, TRIAL, exit_code, is_rank_zero, passed_on
from src.utils.settings import Settings, format_override_value

log = logging.getLogger(__name__)
MANIFESTS = f"*/{FILE_NAME}"  # in the folder of a stage's data
NOT_INHERITED = {TRIAL, INPUTS, RERUN}  # by the command that builds an input


def find_inputs(settings: Settings) -> list[Experiment]:
    """The data that the settings name: each setting that is called like a stage is one name, or a list.

    Raises:
        UserError: such a setting is no name, or one of a model, or one without code and data; the message
            lists those that have.
    """
    known = type(settings).model_fields
    read = [(stage, getattr(settings, stage)) for stage in list_stages() if stage in known]
    read = [(stage, value) for stage, value in read if value is not None and _is_of_data(stage)]
    named = [(stage, name) for stage, value in read for name in _names(stage, value)]
    return [_find_input(stage, name) for stage, name in dict.fromkeys(named)]


def _is_of_data(stage: str) -> bool:
    """Whether a stage has data, or a program that makes some: a setting with its name reads them."""
    if stage in STAGES:
        return stage != "model"
    programs = filter(is_program, (ROOT / "src" / stage).glob("*/*.py"))
    return any(data_folder(stage).glob(MANIFESTS)) or not all(map(_is_model, programs))


def _is_model(program: Path) -> bool:
    experiment, settings_class = Experiment.of(program), read_settings_class(program)
    if experiment is None or settings_class is None:
        return False
    return not makes_data(experiment, settings_class)


def _names(stage: str, value: Any) -> list[str]:
    """`feature01`, or `[feature01, feature02]`."""
    names = [value] if isinstance(value, str) or not isinstance(value, Sequence) else list(value)
    if all(isinstance(name, str) for name in names):
        return names
    raise UserError(
        f"{stage}={format_override_value(value)} is refused: src/{stage} is a stage, and the setting of that "
        f"name says what is read from it, as in {stage}={stage}01; rename the stage or the setting"
    )


def _find_input(stage: str, name: str) -> Experiment:
    code = {file.parent.name for file in (ROOT / "src" / stage).glob("*/*.py")}
    data = {file.parent.name for file in data_folder(stage).glob(MANIFESTS)}
    if str(Experiment(stage, name)) in read_pins():
        data.add(name)  # it may be a version of an experiment that was deleted
    if name in code | data:
        experiment = Experiment(stage, name)
        programs = [] if name in data else filter(is_program, experiment.source.glob("*.py"))
        if any(map(_is_model, programs)):
            raise UserError(f"{stage}={name} is refused: {experiment} is a model and makes no data")
        return experiment
    near = get_close_matches(name, sorted(code | data), n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    known = ", ".join(sorted(code | data)) or "none yet"
    raise UserError(f"{stage}={format_override_value(name)} is refused: there are {known}{hint}")


def prepare_inputs(settings: Settings, check: bool = True) -> list[Manifest]:
    """Build the inputs that are missing or out of date, and return the manifests of all.

    A pinned version is taken as it is.

    Args:
        check: whether to look for inputs that are out of date; an earlier check may be enough.

    Raises:
        UserError: an input doesn't exist, can't be built, or has other folds than the settings ask for; or a
            pinned version isn't here, and is not what would be built.
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


def prepare_inputs_of_sweep(settings: Iterable[Settings]) -> list[Manifest]:
    """Prepare the inputs of all trials of a sweep once, and return their manifests.

    Raises:
        UserError: an input doesn't exist, or can't be built.
    """
    by_inputs = {tuple(find_inputs(trial)): trial for trial in settings}
    return [manifest for trial in by_inputs.values() for manifest in prepare_inputs(trial)]


def _prepare_input(experiment: Experiment, settings: Settings, check: bool) -> Manifest:
    pin = read_pins().get(str(experiment), "")
    version = find_pinned(experiment, pin) if pin else None
    if version is not None:
        _say_if_not_in_use(version)
        return version
    manifest = _up_to_date(experiment, settings, check)
    if not manifest.digest.startswith(pin):
        raise UserError(
            f"version {pin[:8]} of {experiment} is to be read, and is not in _data/versions/{experiment}: "
            f"what is built here is version {manifest.digest[:8]}"
        )
    return manifest


def _say_if_not_in_use(version: Manifest) -> None:
    present = Manifest.read(Experiment.named(version.experiment))
    if present is not None and present.digest != version.digest and is_rank_zero():
        log.info(
            "%s: version %s is read, as it was before; version %s is in use now",
            *(version.experiment, version.digest[:8], present.digest[:8]),
        )


def _up_to_date(experiment: Experiment, settings: Settings, check: bool) -> Manifest:
    manifest = version_in_use(experiment)
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
    notifier.begin()
    chain = [*os.environ.get(BUILDING, "").split(), str(experiment)]
    if len(chain) > len({*chain}):
        raise UserError(f"{experiment} reads what is made of itself: {' → '.join(chain)}")
    environment = {key: value for key, value in os.environ.items() if key not in NOT_INHERITED}
    environment[BUILDING] = " ".join(chain)
    command = [sys.executable, str(experiment.program()), *(recipe.arguments if recipe else [])]
    folder = recipe.working_folder if recipe else None
    with (
        subprocess.Popen(command, env=environment, cwd=folder) as process,
        passed_on(process) as ended,
    ):
        code = process.wait()
    if ended:
        log.warning("SIGTERM: stopped while %s was being built", experiment)
        sys.exit(exit_code(signal.SIGTERM))
    if code != 0:
        raise UserError(f"{experiment} {failure}")
    manifest = Manifest.read(experiment)
    assert manifest is not None
    return manifest
