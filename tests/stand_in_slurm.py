"""A stand-in for the commands of Slurm: the tasks of a job array are processes of this machine.

sbatch, squeue, scancel and scontrol are links to this file; STAND_IN names the folder of what they know.
Tasks begin when it has the file `open`. They have nothing of the environment of whoever submits them.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

STATE = Path(os.environ["STAND_IN"])
OPEN = STATE / "open"


def sbatch(arguments: list[str]) -> None:
    """Start the tasks of a job, and print its number."""
    script = Path(arguments[-1])
    number = 1 + len([*STATE.glob("*.sh")])
    copy = STATE / f"{number}.sh"
    shutil.copy(script, copy)
    (last,) = re.findall(r"--array=0-(\d+)", copy.read_text())
    for task in range(int(last) + 1):
        (STATE / f"{number}_{task}").touch()
        keep = [sys.executable, Path(__file__).resolve(), "keep", str(number), str(task)]
        quiet = subprocess.DEVNULL
        subprocess.Popen(keep, start_new_session=True, stdin=quiet, stdout=quiet, stderr=quiet)
    print(number)


def keep(arguments: list[str]) -> None:
    """Run a task, again and again while it is requeued."""
    number, task = arguments
    mine, restart, script = STATE / f"{number}_{task}", 0, STATE / f"{number}.sh"
    (output,) = re.findall(r"--output=(.*)", script.read_text())
    while mine.exists():
        if not OPEN.exists():
            time.sleep(0.05)
            continue
        known = {name: os.environ[name] for name in ("PATH", "HOME", "STAND_IN")}
        known |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": task}
        known |= {"SLURM_RESTART_COUNT": str(restart)} if restart else {}
        with Path(output.replace("%a", task)).open("a") as file:
            process = subprocess.Popen(["bash", script], env=known, stdout=file, stderr=file)
        mine.write_text(str(process.pid))
        process.wait()
        again = mine.with_suffix(".again")
        if not again.exists():
            mine.unlink()
            return
        again.unlink()
        mine.write_text("")
        restart += 1


def squeue(arguments: list[str]) -> None:
    """Print the state of each task of a job."""
    for task in tasks_of(arguments[-1]):
        print("RUNNING" if task.read_text() else "PENDING")


def tasks_of(number: str) -> list[Path]:
    """The tasks of a job that have not ended."""
    return [task for task in STATE.glob(f"{number}_*") if not task.suffix]


def scancel(arguments: list[str]) -> None:
    """Remove the tasks that wait, or signal the scripts of those that run."""
    for task in tasks_of(arguments[-1]):
        process = task.read_text()
        if "--state=PENDING" in arguments and not process:
            task.unlink()
        elif "--signal=TERM" in arguments and process:
            os.kill(int(process), signal.SIGTERM)


def scontrol(arguments: list[str]) -> None:
    """Show a task, or queue it again."""
    if arguments[0] == "show":
        print("   JobState=RUNNING Reason=None Dependency=(null)")
    else:
        (STATE / f"{arguments[-1]}.again").touch()


if __name__ == "__main__":
    name, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    command = arguments.pop(0) if name == "stand_in_slurm.py" else name
    globals()[command](arguments)
