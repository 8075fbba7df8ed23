"""The settings `workers=…`: where a search or a run is executed. Values: config/utils/workers/*.yaml.

workers=local         in this process, on this machine
workers=slurm         by workers that Slurm starts
workers=ray           by workers that a Ray cluster starts
workers=kubernetes    by workers that Kubernetes starts

They have no effect on results, and are not recorded with runs. What they are used for: `src/utils/workers`.
"""

import os
from typing import Annotated, Any, Literal

from src.utils.process import WORKER

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

Memory = Annotated[str, Field(pattern=r"^\d+[KMGT]$")]
TimeLimit = Annotated[str, Field(pattern=r"^(\d+-)?\d+:[0-5]\d:[0-5]\d$")]


class LocalWorkers(BaseModel):
    """`workers=local`: this machine, without an engine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: Literal["local"] = "local"


class RemoteWorkers(BaseModel):
    """What the workers of every engine have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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
    """`workers=ray`: tasks of a Ray cluster."""

    engine: Literal["ray"]
    address: str | None


class KubernetesWorkers(RemoteWorkers):
    """`workers=kubernetes`: one Indexed Job."""

    engine: Literal["kubernetes"]
    image: str | None
    namespace: str | None
    queue: str | None
    secret: str | None


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


def seconds(limit: str) -> int:
    """A time limit in seconds: 5400 for `1:30:00`, 86400 for `1-00:00:00`."""
    days, _, rest = limit.rpartition("-")
    hours, minutes, rest = rest.split(":")
    return ((int(days or 0) * 24 + int(hours)) * 60 + int(minutes)) * 60 + int(rest)
