"""The manifest of data that an experiment made: `manifest.json` beside the files.

It says what the folder holds (`files`, `digest`) and from what it was made (`fingerprint`, `run_id`).
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from src.utils.files import replace_file
from src.utils.paths import Experiment
from src.utils.settings import Settings

FILE_NAME = "manifest.json"
METADATA_KEY = "facts"  # of Manifest.metadata in the file, as stored and read by earlier versions
# Settings that don't change what is made
NO_EFFECT_ON_DATA = {"note", "tags", "force", "stale", "notify"}


@dataclass(frozen=True)
class Manifest:
    """The content and origin of a folder of data.

    It is written last and moved into place together with the files. Where it is, the files are complete.
    """

    experiment: str
    fingerprint: str  # of all that the data are made from: settings, code, inputs
    digest: str  # of all files
    files: dict[str, str]  # SHA-256 of each file, by relative path
    run_id: str  # of the run that made them
    metadata: dict[str, str] = field(
        default_factory=dict
    )  # the tags `data.…`: {"source": "sample"}
    folder: Path = field(default=Path(), compare=False)  # where it was read; not in the file

    @classmethod
    def read(cls, experiment: Experiment) -> "Manifest | None":
        """The manifest of the data in use; None if there are none."""
        return cls.of_folder(experiment.data)

    @classmethod
    def of_folder(cls, folder: Path) -> "Manifest | None":
        """The manifest of a folder of data, or of the one that a link leads to; None if it has none."""
        folder = folder.resolve()  # once: the link may be replaced meanwhile
        file = folder / FILE_NAME
        if not file.exists():
            return None
        return replace(cls.from_json(json.loads(file.read_text())), folder=folder)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Manifest":
        """A manifest from the keys and values of its file."""
        return cls(**known_fields(cls, values | {"metadata": values.get(METADATA_KEY, {})}))

    def to_json(self) -> dict[str, Any]:
        """The keys and values of its file."""
        values = asdict(self)
        del values["folder"]
        values[METADATA_KEY] = values.pop("metadata")
        return values

    def write(self, folder: Path) -> None:
        """Write `manifest.json` into a folder, read-only, in one step."""
        with replace_file(folder / FILE_NAME) as draft:
            draft.write_text(json.dumps(self.to_json(), indent=2) + "\n")
            draft.chmod(0o444)


def known_fields(kind: type[Any], values: dict[str, Any]) -> dict[str, Any]:
    """The values that are fields of a dataclass; a later version may have stored more."""
    return {known.name: values[known.name] for known in fields(kind) if known.name in values}


def merge_metadata(inputs: Iterable[Manifest]) -> dict[str, str]:
    """The metadata of several inputs: `full+sample` where they differ, so that no value is lost."""
    merged: dict[str, set[str]] = {}
    for manifest in inputs:
        for key, value in manifest.metadata.items():
            merged.setdefault(key, set()).update(value.split("+"))
    return {key: "+".join(sorted(values)) for key, values in merged.items()}


def fingerprint(experiment: Experiment, settings: Settings, inputs: list[Manifest]) -> str:
    """A digest of all that data are made from: settings, code and inputs.

    A path in the settings whose files are read counts by their content, another one by its name.
    """
    read = absolute_paths_read(settings)
    values = settings.model_dump(exclude=NO_EFFECT_ON_DATA)
    content = {key: _setting_content(value, read) for key, value in values.items()}
    return json_digest([content, code_digests(experiment), [data.digest for data in inputs]])


def _setting_content(value: Any, read: list[Path]) -> Any:
    if not isinstance(value, Path):
        return value
    path = _absolute(value)
    return file_digests(path) if path in read else str(path)


def absolute_paths_read(settings: Settings) -> list[Path]:
    """`Settings.paths_read` as absolute paths."""
    return [_absolute(path) for path in settings.paths_read()]


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def code_digests(experiment: Experiment) -> dict[str, str]:
    """SHA-256 of each Python file of an experiment, by relative path."""
    files = sorted(experiment.source.rglob("*.py"))
    return {str(file.relative_to(experiment.source)): file_digest(file) for file in files}


def file_digests(path: Path) -> dict[str, str]:
    """SHA-256 of each file in a folder, except the manifest, by relative path; or of a single file."""
    if path.is_file():
        return {path.name: file_digest(path)}
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != FILE_NAME)
    return {str(file.relative_to(path)): file_digest(file) for file in files}


def json_digest(value: Any) -> str:
    """SHA-256 of a value that JSON can represent."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_digest(file: Path) -> str:
    """SHA-256 of the content of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
