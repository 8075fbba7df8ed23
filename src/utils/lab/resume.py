"""`lab resume`: resume a training in the same run, with the program that started it."""

import subprocess
import sys

from src.utils.errors import UserError
from src.utils.paths import ROOT
from src.utils.store.reference import find_record


def resume(reference: str) -> tuple[str, int]:
    """Start the program of a run with `resume_run=ID`; returns the id and the exit status.

    Raises:
        UserError: there is no such run, it is a study or blend, or its program no longer exists.
    """
    run = find_record(reference)
    if run.is_study:
        raise UserError(
            f"{run.name} is a study, not a run: lab show {run.name} has the command that resumes it"
        )
    if run.blended:
        raise UserError(f"{run.short} is a blend, which is never resumed: {run.tags['command']}")
    program = ROOT / run.tags["mlflow.source.name"]
    if not program.exists():
        raise UserError(
            f"{program.relative_to(ROOT)} no longer exists: lab rerun can still repeat the run"
        )
    command = [sys.executable, str(program), f"resume_run={run.id}"]
    status = subprocess.run(command, check=False).returncode
    return run.id, status if status >= 0 else 128 - status  # as a shell has it after a signal
