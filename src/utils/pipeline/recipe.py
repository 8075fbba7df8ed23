"""The recipe of data: from what they were made, and whether that has changed since.

It is stored as `_data/<stage>/.<name>.recipe.json`, beside the link to the version in use: each checkout has
its own.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from src.utils.config.composition import compose_values
from src.utils.config.overrides import override_key
from src.utils.files import replace_file
from src.utils.paths import ROOT, Experiment, display_path
from src.utils.pipeline.manifest import (
    NO_EFFECT_ON_DATA,
    Manifest,
    absolute_paths_read,
    code_digests,
    known_fields,
)
from src.utils.settings import Settings

from hydra.core.hydra_config import HydraConfig


@dataclass(frozen=True)
class Recipe:
    """All that is needed to build the same data again, and to know whether they are out of date.

    The fields are the keys of the stored file.
    """

    config_name: str
    overrides: list[str]
    cwd: str  # where they were typed, relative to the root: a copy of the repository has its own
    settings: dict[str, str] | None  # as composed, by dotted name; None where that failed
    code: dict[str, str]  # digest of each file
    sources: dict[str, str]  # digest of each input
    read: dict[str, dict[str, str]]  # size and time of each file under a path in the settings
    run_id: str = ""  # as in the manifest that the recipe belongs to
    digest: str = ""  # as in that manifest; missing in recipes of earlier versions

    @classmethod
    def current(
        cls, experiment: Experiment, settings: Settings, inputs: list[Manifest]
    ) -> "Recipe":
        """The recipe of the stage that this process runs."""
        hydra = HydraConfig.get()
        name = str(hydra.job.config_name)
        overrides = [str(override) for override in hydra.overrides.task]
        overrides = [text for text in overrides if override_key(text) not in NO_EFFECT_ON_DATA]
        return cls(
            name,
            overrides,
            str(display_path(Path(hydra.runtime.cwd))),
            compose_values(experiment, overrides, name),
            code_digests(experiment),
            {data.experiment: data.digest for data in inputs},
            {str(path): file_states(path) for path in absolute_paths_read(settings)},
        )

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Recipe":
        """The recipe that a file holds; a later version may have stored more."""
        return cls(**known_fields(cls, values))

    @classmethod
    def of_folder(cls, data: Path) -> "Recipe | None":
        """The recipe beside a folder of data, whatever that holds now; None if there is none."""
        file = recipe_file(data)
        return cls.from_json(json.loads(file.read_text())) if file.exists() else None

    @classmethod
    def load(
        cls, experiment: Experiment, manifest: Manifest, data: Path | None = None
    ) -> "Recipe | None":
        """The recipe of the data in use; None for data of a version without recipes.

        Args:
            data: the folder, if it is that of another checkout.
        """
        recipe = cls.of_folder(data or experiment.data)
        if recipe is None:
            return None
        if recipe.digest:
            return recipe if recipe.digest == manifest.digest else None
        return recipe if recipe.run_id == manifest.run_id else None

    def save(self, experiment: Experiment, manifest: Manifest) -> None:
        """Save it as the recipe of some data; the file is replaced in one step."""
        recipe = replace(self, run_id=manifest.run_id, digest=manifest.digest)
        if recipe != Recipe.load(experiment, manifest):
            with replace_file(recipe_file(experiment.data)) as draft:
                draft.write_text(json.dumps(asdict(recipe), indent=2) + "\n")

    @property
    def arguments(self) -> list[str]:
        """The command-line arguments with which the stage's program builds the data again."""
        name = [] if self.config_name == "config" else [f"--config-name={self.config_name}"]
        return [*name, *self.overrides]

    @property
    def working_folder(self) -> Path:
        """The folder in which the overrides were typed; the root if it no longer exists."""
        folder = ROOT / self.cwd
        return folder if folder.is_dir() else ROOT


def recipe_file(data: Path) -> Path:
    """The file of the recipe of a folder of data."""
    return data.with_name(f".{data.name}.recipe.json")


def reasons_to_rebuild(experiment: Experiment, manifest: Manifest) -> list[str]:
    """Why the data of a stage are out of date, in words; the inputs of its inputs count, too.

    Returns:
        An empty list for data that are up to date, and for data without a recipe.
    """
    recipe = Recipe.load(experiment, manifest)
    return list(_changes_since(recipe, experiment)) if recipe else []


def _changes_since(recipe: Recipe, experiment: Experiment) -> Iterator[str]:
    """Something that no longer exists can't be compared, and is no change."""
    yield from _changed_settings(recipe, experiment)
    before, now = recipe.code, code_digests(experiment) or recipe.code
    changed = sorted(name for name in {*now, *before} if now.get(name) != before.get(name))
    if changed:
        yield f"src/{experiment}/{', '.join(changed)} changed"
    for path, states in recipe.read.items():
        if Path(path).exists() and file_states(Path(path)) != states:
            yield f"the files of {path} changed"
    for name, digest in recipe.sources.items():
        yield from _changed_input(Experiment.named(name), digest)


def _changed_settings(recipe: Recipe, experiment: Experiment) -> Iterator[str]:
    now = compose_values(experiment, recipe.overrides, recipe.config_name)
    if now is None or recipe.settings is None:
        return
    for name in dict.fromkeys([*recipe.settings, *now]):
        before, value = recipe.settings.get(name), now.get(name)
        if before != value and name.split(".")[0] not in NO_EFFECT_ON_DATA:
            yield f"{name}={value} in config/{experiment}, it was {before}"


def _changed_input(experiment: Experiment, digest: str) -> Iterator[str]:
    manifest = Manifest.read(experiment)
    if manifest is None:
        return
    if manifest.digest != digest:
        yield f"{experiment} was built again with other content"
    for reason in reasons_to_rebuild(experiment, manifest):
        yield f"{experiment} is out of date: {reason}"


def file_states(path: Path) -> dict[str, str]:
    """Size and modification time of each file: reading all of them would take too long."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    status = {str(file.relative_to(path)): file.stat() for file in files if file.exists()}
    return {name: f"{stat.st_size} {stat.st_mtime_ns}" for name, stat in status.items()}
