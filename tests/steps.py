"""An experiment whose trials last, and go on where they were stopped. Tests of workers copy it.

python src/model/model95/steps.py steps=20 seconds=0.2
"""

import json
import os
import socket
import time
from pathlib import Path

from src.utils.experiment import experiment
from src.utils.run import Run
from src.utils.settings import ModelSettings


class Config(ModelSettings):
    x: float
    steps: int
    seconds: float  # of a step
    trace: str  # a file with a line for each step that was computed


@experiment
def main(cfg: Config, run: Run) -> float:
    """Go to the target by halves; returns the distance that is left."""
    state = load(run.resume_from) if run.resume_from else {"step": 0, "way": 1.0}
    run.objective("distance", "min")
    for step in range(state["step"], cfg.steps):
        time.sleep(cfg.seconds)
        state = next_state(cfg.x, state)
        run.log({"distance": state["way"]}, step + 1)
        run.save("state.json", lambda file, now=state: file.write_text(json.dumps(now)))
        note(cfg.trace, run.id, step)
        run.report(state["way"], step + 1)
    return state["way"]


def next_state(x: float, state: dict) -> dict:
    """What a step makes of the state: it depends on all steps before."""
    return {"step": state["step"] + 1, "way": state["way"] * 0.9 + abs(x - 0.3)}


def note(trace: str, run_id: str, step: int) -> None:
    """Add a line to a file that several machines write."""
    line = f"{run_id} {step} {socket.gethostname()}\n".encode()
    file = os.open(trace, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line)
    os.close(file)


def load(folder: Path) -> dict:
    """The model of a run; `load_model` calls it."""
    return json.loads((folder / "state.json").read_text())


if __name__ == "__main__":
    main()
