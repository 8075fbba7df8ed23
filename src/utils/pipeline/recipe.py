"""What data were made from, and what has changed since: `_data/<stage>/.<name>.recipe.json`.

It lies beside the folder, because earlier versions of this code refuse a `manifest.json` with more keys.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from src.utils.config.composition import compose_values
from src.utils.paths import ROOT, Experiment, display_path
from src.utils.pipeline.manifest import NOT_CONTENT, Manifest, code_of, known_fields, paths_read
from src.utils.settings import Settings

from hydra.core.hydra_config import HydraConfig


@dataclass(frozen=True)
class Recipe:
    """Enough to make the same data again, and to see whether they would be others today."""

    config_name: str
    overrides: list[str]  # what was typed
    cwd: str  # … and where, as seen from the root: a copy of the repository has its own
    settings: dict[str, str] | None  # as composed, by dotted name; None where that failed
    code: dict[str, str]  # digest of each file
    sources: dict[str, str]  # digest of each dataset and feature
    read: dict[str, dict[str, str]]  # size and time of each file under a path in the settings
    run_id: str = ""  # of the manifest that it belongs to

    @classmethod
    def current(
        cls, experiment: Experiment, settings: Settings, sources: list[Manifest]
    ) -> "Recipe":
        """Of the stage that this process runs."""
        hydra = HydraConfig.get()
        name = str(hydra.job.config_name)
        typed = [str(one) for one in hydra.overrides.task if _key(str(one)) not in NOT_CONTENT]
        return cls(
            name,
            typed,
            str(display_path(Path(hydra.runtime.cwd))),
            compose_values(experiment, typed, name),
            code_of(experiment),
            {source.experiment: source.digest for source in sources},
            {str(path): _stamps(path) for path in paths_read(settings)},
        )

    @classmethod
    def of(cls, what: Experiment, manifest: Manifest) -> "Recipe | None":
        """Of data that are there; None where they are older than recipes are."""
        file = _file(what)
        if not file.exists():
            return None
        recipe = cls(**known_fields(cls, json.loads(file.read_text())))
        return recipe if recipe.run_id == manifest.run_id else None

    def save(self, experiment: Experiment, made: Manifest) -> None:
        """Write it as that of some data, whole or not at all."""
        recipe = replace(self, run_id=made.run_id)
        if recipe != Recipe.of(experiment, made):
            draft = _file(experiment).with_suffix(".draft")
            draft.write_text(json.dumps(asdict(recipe), indent=2) + "\n")
            draft.replace(_file(experiment))

    @property
    def command_line(self) -> list[str]:
        """What the stage's program is given to make them again."""
        name = [] if self.config_name == "config" else [f"--config-name={self.config_name}"]
        return [*name, *self.overrides]

    @property
    def folder(self) -> Path:
        """Where it was typed; the root, if that is gone."""
        place = ROOT / self.cwd
        return place if place.is_dir() else ROOT

    def changes(self, what: Experiment) -> Iterator[str]:
        """What has changed since, in words. What is gone can't be compared, and is no change."""
        yield from self._other_settings(what)
        now = code_of(what) or self.code
        changed = sorted(
            name for name in {*now, *self.code} if now.get(name) != self.code.get(name)
        )
        if changed:
            yield f"src/{what}/{', '.join(changed)} changed"
        for path, before in self.read.items():
            if Path(path).exists() and _stamps(Path(path)) != before:
                yield f"the files of {path} changed"
        for name, digest in self.sources.items():
            yield from _other_data(Experiment.named(name), digest)

    def _other_settings(self, what: Experiment) -> Iterator[str]:
        now = compose_values(what, self.overrides, self.config_name)
        if now is None or self.settings is None:
            return
        for name in dict.fromkeys([*self.settings, *now]):
            before, value = self.settings.get(name), now.get(name)
            if before != value and name.split(".")[0] not in NOT_CONTENT:
                yield f"{name}={value} in config/{what}, it was {before}"


def changes(what: Experiment, manifest: Manifest) -> list[str]:
    """Why data are out of date, down to the first stage; empty where they are not, or nobody knows."""
    recipe = Recipe.of(what, manifest)
    return list(recipe.changes(what)) if recipe else []


def _other_data(source: Experiment, digest: str) -> Iterator[str]:
    manifest = Manifest.read(source)
    if manifest is None:
        return
    if manifest.digest != digest:
        yield f"{source} was made again with other content"
    for reason in changes(source, manifest):
        yield f"{source} is out of date: {reason}"


def _file(what: Experiment) -> Path:
    return what.data.with_name(f".{what.name}.recipe.json")


def _key(override: str) -> str:
    return override.split("=", maxsplit=1)[0].lstrip("+~")


def _stamps(path: Path) -> dict[str, str]:
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    status = {str(file.relative_to(path)): file.stat() for file in files if file.exists()}
    return {name: f"{one.st_size} {one.st_mtime_ns}" for name, one in status.items()}
