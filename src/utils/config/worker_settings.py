"""The settings `workers=…`: where a search or a run is executed. Values: config/utils/workers/*.yaml.

workers=local         in this process, on this machine
workers=slurm         by workers that Slurm starts
workers=ray           by workers that a Ray cluster starts
workers=kubernetes    by workers that Kubernetes starts

They have no effect on results, and are not recorded with runs. What they are used for: `src/utils/workers`.
"""

import os
import re
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from src.utils.process import WORKER

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

WORKERS = "workers"  # the setting


def _like(pattern: str, expected: str) -> AfterValidator:
    """A check of text; in a YAML file it may have been read as a number."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"should be {expected}; in a YAML file in quotes")
        return text

    return AfterValidator(check)


Memory = Annotated[str, _like(r"\d+[KMGT]", "a number with K, M, G or T, as in 16G")]
TIME = r"(\d+-)?\d+:[0-5]\d:[0-5]\d"
TimeLimit = Annotated[str, _like(TIME, "hours:minutes:seconds, as in 4:00:00 or 1-12:00:00")]


class LocalWorkers(BaseModel):
    """`workers=local`: this machine, without an engine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: Literal["local"] = "local"


class RemoteWorkers(BaseModel):
    """What the workers of every engine have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    engine: str
    count: PositiveInt
    cpus: PositiveInt | None  # of each worker, as all that follows
    gpus: NonNegativeInt
    memory: Memory | None
    time: TimeLimit | None
    extra: list[str]
    dry_run: bool


class SlurmWorkers(RemoteWorkers):
    """`workers=slurm`: one job array of `sbatch`."""

    engine: Literal["slurm"]
    partition: str | None


class RayWorkers(RemoteWorkers):
    """`workers=ray`: actors of a Ray cluster."""

    engine: Literal["ray"]
    address: str | None


class KubernetesWorkers(RemoteWorkers):
    """`workers=kubernetes`: one Indexed Job."""

    engine: Literal["kubernetes"]
    image: str | None
    namespace: str | None
    queue: str | None
    secret: str | None


ENGINES = (SlurmWorkers, RayWorkers, KubernetesWorkers)
Workers = Annotated[
    LocalWorkers | SlurmWorkers | RayWorkers | KubernetesWorkers, Field(discriminator="engine")
]


def remote_workers(settings: Any) -> RemoteWorkers | None:
    """The workers to which a command with these settings is submitted; None if it runs here.

    A worker itself runs what it was started for, whatever config.yaml says.
    """
    workers = getattr(settings, "workers", None)
    is_elsewhere = isinstance(workers, RemoteWorkers) and WORKER not in os.environ
    return workers if is_elsewhere else None


def unknown_worker_setting(key: str) -> str:
    """The message for `workers` where there is no such setting, or for one that the chosen workers lack."""
    name = key.partition(".")[2]
    if not name:
        return f"{key}= is for models: what makes data is made here, before workers begin"
    choices = {kind.__name__.removesuffix("Workers").lower(): kind.model_fields for kind in ENGINES}
    having = [f"{key.partition('.')[0]}={choice}" for choice in choices if name in choices[choice]]
    if having:
        return f"{key} belongs to {' and '.join(having)}: type that, too"
    known = sorted({name for fields in choices.values() for name in fields} - {"engine"})
    similar = get_close_matches(name, known, n=1)
    hint = f"did you mean {similar[0]}?" if similar else f"there are {', '.join(known)}"
    return f"{key} is not a setting: {hint}"


def seconds(limit: str) -> int:
    """A time limit in seconds: 5400 for `1:30:00`, 86400 for `1-00:00:00`."""
    days, _, rest = limit.rpartition("-")
    hours, minutes, rest = rest.split(":")
    return ((int(days or 0) * 24 + int(hours)) * 60 + int(minutes)) * 60 + int(rest)
