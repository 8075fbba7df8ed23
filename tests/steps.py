"""An experiment whose trials go on where they were stopped. Tests of workers copy it.

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
    hold: int  # the step before which it waits for the file `go`; -1: none
    place: Path  # a folder that all machines see: with `go`, and `trace` of the steps that were computed


@experiment
def main(cfg: Config, run: Run) -> float:
    """Take steps; returns what depends on each of them."""
    run.objective("value", "min")
    state = load(run.resume_from) if run.resume_from else {"step": 0, "value": 1.0}
    for step in range(state["step"], cfg.steps):
        while step == cfg.hold and not (cfg.place / "go").exists():
            time.sleep(0.05)
        time.sleep(cfg.seconds)
        state = next_state(cfg.x, state)
        run.log({"value": state["value"]}, step + 1)
        run.save("state.json", lambda file, now=state: file.write_text(json.dumps(now)))
        note(cfg.place / "trace", f"{run.id} {step} {socket.gethostname()}\n")
        run.report(state["value"], step + 1)
    return state["value"]


def next_state(x: float, state: dict) -> dict:
    return {"step": state["step"] + 1, "value": state["value"] * 0.9 + abs(x - 0.3)}


def note(file: Path, line: str) -> None:
    """Add a line to a file that several processes write."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, line.encode())
    os.close(descriptor)


def load(folder: Path) -> dict:
    """The model of a run; `load_model` calls it."""
    return json.loads((folder / "state.json").read_text())


if __name__ == "__main__":
    main()
