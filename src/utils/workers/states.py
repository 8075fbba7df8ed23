"""What the workers of jobs are doing, as their engines say."""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from src.utils.errors import UserError, one_line
from src.utils.workers.engine import find_engine
from src.utils.workers.job import Submitted

AT_A_TIME = 8  # jobs whose engines are asked
LAST_LINES = 5
LINKS = ("🏃", "🧪")  # MLflow prints them when a run ends
REFUSED = re.compile("^error: ", re.MULTILINE)


@dataclass(frozen=True)
class WorkerStates:
    """How many workers of a job are in which state."""

    job: Submitted
    states: dict[str, int]  # in the engine's words; nothing if all have ended
    problem: str = ""  # why the engine could not be asked

    @property
    def have_ended(self) -> bool:
        """Whether all workers have ended. While the engine can't be asked, nobody knows."""
        return not self.states and not self.problem

    def __str__(self) -> str:
        """`slurm 1234, 4 workers: 3 running, 1 pending`"""
        counts = ", ".join(f"{count} {state}" for state, count in self.states.items())
        said = counts or (f"unknown, {self.problem}" if self.problem else "ended")
        many = "s" if self.job.count > 1 else ""
        return f"{self.job.engine} {self.job.id}, {self.job.count} worker{many}: {said}"


def ask_engines(jobs: Sequence[Submitted]) -> list[WorkerStates]:
    """Ask the engines of these jobs what their workers are doing."""
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        return list(pool.map(_ask_engine, jobs))


def _ask_engine(job: Submitted) -> WorkerStates:
    try:
        return WorkerStates(job, find_engine(job.engine).states(job))
    except UserError as error:
        return WorkerStates(job, {}, one_line(error))


def last_words(jobs: Sequence[Submitted]) -> tuple[Path, str] | None:
    """What a worker has printed last, and where; if one was refused, it is this one.

    None where nothing was printed, or the engine does not bring it here.
    """
    texts = {
        file: file.read_text(errors="replace") for job in jobs for file in job.logs.glob("*.out")
    }
    refused = [file for file, text in texts.items() if REFUSED.search(text)]
    latest = max(refused or texts, key=lambda file: file.stat().st_mtime, default=None)
    if latest is None:
        return None
    lines = [line for line in texts[latest].splitlines() if not line.startswith(LINKS)]
    return latest, "\n".join(lines[-LAST_LINES:])
