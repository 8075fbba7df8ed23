"""Pins: which versions of its inputs a run reads, as decided by the one that starts it.

A sweep pins the inputs of all its trials, a group those of its members, a run those of its other ranks; and a
run that is resumed or repeated reads what it had read before. Pins are in the environment variable `INPUTS`.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from src.utils.paths import Experiment
from src.utils.pipeline.manifest import Manifest
from src.utils.pipeline.versions import find_version
from src.utils.process import INPUTS

Pins = Mapping[str, str]  # {experiment: digest, whole or its beginning}


def read_pins() -> Pins:
    """The pins of this process."""
    pins: Pins = json.loads(os.environ.get(INPUTS, "{}"))
    return pins


def pins_of(inputs: Iterable[Manifest]) -> Pins:
    """Pins of the versions that were prepared."""
    return {manifest.experiment: manifest.digest for manifest in inputs}


@contextmanager
def pinned(pins: Pins) -> Iterator[None]:
    """Pin inputs of this process, and of those that it starts."""
    before = os.environ.get(INPUTS)
    os.environ[INPUTS] = json.dumps({**read_pins(), **pins})
    try:
        yield
    finally:
        os.environ.pop(INPUTS)
        if before is not None:
            os.environ[INPUTS] = before


def pins_override(pins: Pins) -> str:
    """The override by which Hydra pins the inputs of a job, with any launcher."""
    text = json.dumps(dict(pins)).replace("'", r"\'")
    return f"+hydra.job.env_set.{INPUTS}='{text}'"


def find_pinned(experiment: Experiment, digest: str) -> Manifest | None:
    """The manifest of a pinned version; None if it isn't here."""
    version = find_version(experiment, digest)
    if version is not None:
        return version
    present = Manifest.read(experiment)  # a link of one's own may lead to data elsewhere
    return present if present is not None and present.digest.startswith(digest) else None
