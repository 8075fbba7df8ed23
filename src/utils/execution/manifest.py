"""What a folder of data holds and where it came from: `manifest.json` beside the files."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from src.utils.layout import Experiment
from src.utils.settings import Settings

NAME = "manifest.json"
NOT_CONTENT = {"note", "tags", "force"}  # settings that don't change what a stage makes


@dataclass(frozen=True)
class Manifest:
    """Written last and moved into place with the files: where it is, all of them are."""

    experiment: str
    fingerprint: str  # of all that went in: settings, code, sources
    digest: str  # of all that came out
    files: dict[str, str]
    run_id: str
    facts: dict[str, str] = field(default_factory=dict)  # handed down: {"source": "sample"}

    @classmethod
    def read(cls, what: Experiment) -> "Manifest | None":
        path = what.data / NAME
        return cls(**json.loads(path.read_text())) if path.exists() else None

    def write(self, folder: Path) -> None:
        (folder / NAME).write_text(json.dumps(asdict(self), indent=2) + "\n")


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file under a folder, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != NAME)
    return {str(file.relative_to(folder)): _sha256(file) for file in files}


def digest_of(value: Any) -> str:
    """SHA-256 of anything that JSON can say."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def fingerprint(here: Experiment, settings: Settings, sources: list[Manifest]) -> str:
    """Changes when the settings, the code or the sources do; a path among the settings, by its content."""
    values = settings.model_dump(exclude=NOT_CONTENT)
    content = {key: _content(value) for key, value in values.items()}
    code = {file.name: _sha256(file) for file in sorted(here.source.glob("*.py"))}
    return digest_of([content, code, [source.digest for source in sources]])


def _content(value: Any) -> Any:
    return digests(value.expanduser()) if isinstance(value, Path) else value


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
