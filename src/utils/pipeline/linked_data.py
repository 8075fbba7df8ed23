"""A linked git worktree begins with the data of the main checkout, as hard links, which cost no space.

Missing data are linked together with those that they were made from, and with their recipes. What the code or
settings of this branch would make otherwise is then out of date, and is built again here. Finished data are
replaced, never written into: what one checkout builds again stays as it was in the other.
"""

import logging
import os
import shutil
from pathlib import Path

from src.utils.paths import MAIN_CHECKOUT, ROOT, Experiment
from src.utils.pipeline.manifest import Manifest
from src.utils.pipeline.recipe import Recipe, recipe_file

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)


def read_or_link(experiment: Experiment) -> Manifest | None:
    """The manifest of the data of an experiment, which are linked from the main checkout if there are none.

    Returns:
        None if there are none in the main checkout either, or they can't be linked.
    """
    manifest = Manifest.read(experiment)
    if manifest is not None or ROOT == MAIN_CHECKOUT:
        return manifest
    there = MAIN_CHECKOUT / experiment.data.relative_to(ROOT)
    experiment.data.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _lock(experiment.data), _lock(there):
            _link(experiment, there)
    except (OSError, Timeout):  # there are none, they are being built, or on another file system
        return None
    manifest = Manifest.read(experiment)
    recipe = Recipe.load(experiment, manifest) if manifest else None
    for source in recipe.sources if recipe else ():
        read_or_link(Experiment.named(source))
    log.info("%s: linked from %s", experiment, MAIN_CHECKOUT)
    return manifest


def _lock(folder: Path) -> FileLock:
    """The lock that a build of these data holds."""
    if not folder.parent.is_dir():
        raise FileNotFoundError(folder.parent)
    return FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0)


def _link(experiment: Experiment, there: Path) -> None:
    """Link a folder and its recipe; the folder comes last, and whole."""
    if experiment.data.exists():  # another process was faster
        return
    draft = experiment.data.with_name(f".{experiment.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        shutil.copytree(there, draft, copy_function=os.link)
        if recipe_file(there).exists():
            shutil.copy2(recipe_file(there), recipe_file(experiment.data))
        draft.rename(experiment.data)
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)
        raise
