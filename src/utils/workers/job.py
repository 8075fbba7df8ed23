"""What is submitted to an engine for one study or one run, and what is known of it afterwards."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from src.utils.config.worker_settings import RemoteWorkers, seconds
from src.utils.files import replace_file
from src.utils.paths import LOGS
from src.utils.store.location import mask_password

JOBS = LOGS / "workers"
WORKERS = "workers"  # user attribute of a study: what was submitted for it, the first one first
SECRET = re.compile("KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL|NOTIFY")  # in the name of a variable
GRACE = 120  # seconds in which a worker saves what it is running
FORGIVEN = 3  # times that a worker may be killed, as for lack of memory, and is started again
SUBMITTED = "job.json"  # the same of one job, in its folder


@dataclass(frozen=True)
class WorkerJob:
    """`count` workers, each of which runs the same command."""

    name: str  # unique in this project; a file may have it
    command: list[str]  # of each worker; it holds no passwords
    folder: Path  # its working directory: the code that the workers run
    environment: dict[str, str]  # with passwords: never in what others can read
    settings: RemoteWorkers

    @property
    def logs(self) -> Path:
        """The folder of its script and of what its workers print."""
        return job_folder(self.name)

    @property
    def limited_command(self) -> list[str]:
        """The command, asked to end when `workers.time` is over: for engines that have no such limit."""
        if self.settings.time is None:
            return self.command
        limit = ("--foreground", "--preserve-status", f"--kill-after={GRACE}")
        return ["timeout", *limit, str(seconds(self.settings.time)), *self.command]


@dataclass(frozen=True)
class Submitted:
    """A job that an engine has taken."""

    name: str  # of the job
    engine: str
    id: str  # by which the engine knows it
    count: int  # of its workers
    time: float  # when it was submitted, in seconds since 1970
    code: str = ""  # the folder that its workers run, in `logs/workers/code`
    details: dict[str, str] = field(default_factory=dict)  # what else the engine needs to cancel it

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Submitted":
        """Read what `to_dict` has made."""
        return cls(**values)

    @property
    def logs(self) -> Path:
        """The folder of its script and of what its workers print."""
        return job_folder(self.name)

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON can hold."""
        return asdict(self)

    def save(self) -> None:
        """Write it to the folder of the job."""
        with replace_file(self.logs / SUBMITTED) as draft:
            draft.write_text(json.dumps(self.to_dict(), indent=2) + "\n")


def job_folder(name: str) -> Path:
    """The folder of a job."""
    return JOBS / re.sub(r"[^\w.+-]", "-", name)


def masked(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment as it may be printed: without passwords, tokens and keys."""
    return {
        name: "***" if SECRET.search(name) else mask_password(value)
        for name, value in sorted(environment.items())
    }


def jobs_of(user_attrs: Mapping[str, Any]) -> list[Submitted]:
    """What was submitted for a study, by its user attributes."""
    return [Submitted.from_dict(values) for values in user_attrs.get(WORKERS, [])]


def saved_jobs() -> list[Submitted]:
    """All jobs that were submitted from this project, for studies and runs; the first one first."""
    files = JOBS.glob(f"*/{SUBMITTED}")
    jobs = [Submitted.from_dict(json.loads(file.read_text())) for file in files]
    return sorted(jobs, key=lambda job: job.time)
