"""What a folder of data holds and where it came from: `manifest.json` beside the files."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from src.utils.paths import Experiment
from src.utils.settings import Settings

NAME = "manifest.json"
METADATA = (
    "facts"  # the key in the file: earlier versions of this code, which reruns use, read no other
)
NOT_CONTENT = {"note", "tags", "force", "stale"}  # settings that don't change what a stage makes


@dataclass(frozen=True)
class Manifest:
    """Written last and moved into place with the files: where it is, all of them are."""

    experiment: str
    fingerprint: str  # of all that went in: settings, code, sources
    digest: str  # of all that came out
    files: dict[str, str]
    run_id: str
    metadata: dict[str, str] = field(default_factory=dict)  # tags of the data: {"source": "sample"}

    @classmethod
    def read(cls, what: Experiment) -> "Manifest | None":
        path = what.data / NAME
        if not path.exists():
            return None
        values = json.loads(path.read_text())
        return cls(**known_fields(cls, values | {"metadata": values.get(METADATA, {})}))

    def write(self, folder: Path) -> None:
        values = asdict(self)
        values[METADATA] = values.pop("metadata")
        (folder / NAME).write_text(json.dumps(values, indent=2) + "\n")


def known_fields(kind: type[Any], values: dict[str, Any]) -> dict[str, Any]:
    """Less what a later version may have written beside."""
    return {one.name: values[one.name] for one in fields(kind) if one.name in values}


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file under a folder, by relative path; or of the one file."""
    if folder.is_file():
        return {folder.name: _sha256(folder)}
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != NAME)
    return {str(file.relative_to(folder)): _sha256(file) for file in files}


def digest_of(value: Any) -> str:
    """SHA-256 of anything that JSON can say."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def fingerprint(experiment: Experiment, settings: Settings, sources: list[Manifest]) -> str:
    """Changes when the settings, the code or the sources do; a path that is read, by its content."""
    read = paths_read(settings)
    content = {
        key: _content(value, read)
        for key, value in settings.model_dump(exclude=NOT_CONTENT).items()
    }
    return digest_of([content, code_of(experiment), [source.digest for source in sources]])


def code_of(experiment: Experiment) -> dict[str, str]:
    """SHA-256 of each Python file of an experiment, by relative path."""
    files = sorted(experiment.source.rglob("*.py"))
    return {str(file.relative_to(experiment.source)): _sha256(file) for file in files}


def paths_read(settings: Settings) -> list[Path]:
    """The paths among the settings whose files go into the data, whole."""
    return [_whole(path) for path in settings.paths_read()]


def merged_metadata(sources: Iterable[Manifest]) -> dict[str, str]:
    """What is said of several sources: `full+sample` where they differ, so that no mark is lost."""
    said: dict[str, set[str]] = {}
    for source in sources:
        for key, value in source.metadata.items():
            said.setdefault(key, set()).update(value.split("+"))
    return {key: "+".join(sorted(values)) for key, values in said.items()}


def _content(value: Any, read: list[Path]) -> Any:
    if not isinstance(value, Path):
        return value
    path = _whole(value)
    return digests(path) if path in read else str(path)


def _whole(path: Path) -> Path:
    return path.expanduser().absolute()


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
