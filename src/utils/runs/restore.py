"""Restoring data that are gone: a version is rebuilt by repeating the run that made it.

    folder = ensure_version("feature/feature01", "5ab16f56…", "3f2a1b2c…")

The run gets the code and settings that it had, and its inputs, which are restored in the same way, back to
the raw files. What it makes must have the digest of what is gone.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from src.utils.config.settings_class import read_settings_class
from src.utils.errors import UserError
from src.utils.paths import DATA, ROOT, VERSIONS, Experiment
from src.utils.pipeline.manifest import Manifest
from src.utils.pipeline.pins import find_pinned
from src.utils.pipeline.recipe import Recipe
from src.utils.pipeline.versions import LENGTH, add_version, version_in_use
from src.utils.store.reader import open_reader

from rich import get_console

if TYPE_CHECKING:  # nothing of MLflow is needed where the version is there
    from src.utils.runs.repeat import PastRun


def ensure_version(name: str, digest: str, run_id: str = "") -> Path:
    """The folder of a version of data. One that is gone is rebuilt.

    Args:
        name: of the experiment: `feature/feature01`.
        digest: of the content, whole or as MLflow has it.
        run_id: of the run that made it; where that is deleted or not known, any that made the same will do.

    Raises:
        UserError: it is gone and can't be rebuilt; the message says what is missing.
    """
    return _ensure(Experiment.named(name), digest, run_id).folder


def ensure_inputs(run_id: str) -> list[Manifest]:
    """The versions that a run has read. Those that are gone are rebuilt.

    Raises:
        UserError: one is gone and can't be rebuilt.
    """
    uses = [used for used in open_reader().datasets(run_id) if used.context == "input"]
    return [_ensure(Experiment.named(used.name), used.digest, used.run_id) for used in uses]


def _ensure(experiment: Experiment, digest: str, run_id: str) -> Manifest:
    found = find_pinned(experiment, digest) or _rebuild(experiment, digest, run_id)
    if found.folder.is_relative_to(VERSIONS.resolve()):
        return found
    taken_over = version_in_use(experiment)  # it was a plain folder, as earlier code made them
    return taken_over or found


def _rebuild(experiment: Experiment, digest: str, run_id: str) -> Manifest:
    from src.utils.runs.repeat import PastRun  # late: it imports MLflow
    from src.utils.store.mlflow import open_store

    version = f"{experiment} {digest[:8]}"
    maker = _find_maker(experiment, digest, run_id)
    if maker is None:
        who = f"run {run_id[:8]}, which made it," if run_id else "a run that made it"
        raise UserError(f"{version} is gone and can't be rebuilt: {who} is not in this store")
    text = f"[bold]rebuild[/] {version} is gone: run {maker[:8]}, which made it, is repeated"
    get_console().print(text, soft_wrap=True, highlight=False)
    inputs = ensure_inputs(maker)
    try:
        past = PastRun.read(open_store(), maker)
        with past.checked_out() as checkout:
            found = find_pinned(experiment, digest)  # another process may have been faster
            return found or _repeat(past, checkout, inputs, experiment, digest)
    except UserError as error:
        raise UserError(f"{version} is gone and can't be rebuilt: {error}") from None


def _find_maker(experiment: Experiment, digest: str, run_id: str) -> str | None:
    """The run that made a version; if it is deleted, the newest that made the same."""
    runs = open_reader().all_datasets()
    made = (str(experiment), digest[:LENGTH], "output")
    others = (
        maker
        for maker, uses in runs.items()
        if made in [(used.name, used.digest, used.context) for used in uses]
    )
    return run_id if run_id in runs else next(others, None)


def _repeat(
    past: "PastRun", checkout: Path, inputs: list[Manifest], experiment: Experiment, digest: str
) -> Manifest:
    link_data(checkout, past, experiment, inputs)
    paths = _paths_read(past, checkout)
    try:
        past.repeat(checkout, forced(past))
    except UserError as error:
        gone = [str(path) for path in paths if not (checkout / path.expanduser()).exists()]
        paths_gone = f"run {past.short} reads {', '.join(gone)}, which is no longer there"
        raise UserError(paths_gone if gone else str(error)) from None
    made = adopt(checkout, experiment)
    if made is not None and made.digest.startswith(digest):
        return made
    cause = f": have the files of {', '.join(map(str, paths))} changed?" if paths else ""
    raise UserError(f"run {past.short} makes other data now{cause}")


def forced(past: "PastRun") -> list[str]:
    """The override by which a stage makes its data again, also where they are there."""
    is_stage = "force" in past.stored.data.params
    return ["force=true"] if is_stage and "force=true" not in past.overrides else []


def link_data(
    checkout: Path, past: "PastRun", experiment: Experiment, inputs: Iterable[Manifest]
) -> None:
    """Link what a run is to read into its checkout.

    Raw files are not kept with a run. They are linked as they are today: what lies in `_data`, and what the
    run's settings name by a relative path.

    Args:
        experiment: that of the run; what it makes itself is not linked.
        inputs: the versions that it is to read.
    """
    from src.utils.runs.repeat import link_inputs  # late: it imports MLflow

    link_inputs(checkout, {Experiment.named(one.experiment): one.folder for one in inputs})
    for path in [*_present_data(experiment), *_relative_paths(past, checkout)]:
        link = checkout / path.relative_to(ROOT)
        if not os.path.lexists(link):
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())


def _present_data(experiment: Experiment) -> Iterator[Path]:
    """What lies in `_data`, except versions and what the experiment makes itself."""
    for path in (*DATA.glob("[!.]*"), *DATA.glob("[!.]*/[!.]*")):
        is_folder_of_stage = path.parent == DATA and path.is_dir()
        is_version = path.parent.name == VERSIONS.name
        if not is_folder_of_stage and not is_version and path != experiment.data:
            yield path


def _relative_paths(past: "PastRun", checkout: Path) -> Iterator[Path]:
    for path in _paths_read(past, checkout):
        is_inside = not path.is_absolute() and ".." not in path.parts
        if is_inside and (ROOT / path).exists():
            yield ROOT / path


def _paths_read(past: "PastRun", checkout: Path) -> list[Path]:
    """The settings of a run that are paths, by their types; none if these can't be read."""
    params = past.stored.data.params
    settings_class = read_settings_class(checkout / past.stored.data.tags["mlflow.source.name"])
    fields = settings_class.model_fields.items() if settings_class else ()
    names = [name for name, one in fields if Path in (one.annotation, *get_args(one.annotation))]
    return [Path(params[name]) for name in names if params.get(name, "None") != "None"]


def adopt(checkout: Path, experiment: Experiment) -> Manifest | None:
    """Take what a run has made in its checkout into the versions of this repository.

    Returns:
        None if it has made nothing.
    """
    data = checkout / experiment.data.relative_to(ROOT)
    manifest = Manifest.of_folder(data)
    if manifest is None or manifest.folder.is_relative_to(VERSIONS.resolve()):
        return manifest  # the engine of that time knew the versions
    return add_version(manifest.folder, manifest, Recipe.of_folder(data))
