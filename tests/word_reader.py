"""A model that tells which word it has read from its feature, when a file appears.

python src/model/model92/word_reader.py
"""

import time
from pathlib import Path

from src.utils.experiment import experiment
from src.utils.run import Run
from src.utils.settings import ModelSettings


class Config(ModelSettings):
    feature: str
    wait: Path | None
    x: float


@experiment
def main(cfg: Config, run: Run) -> float:
    while cfg.wait is not None and not cfg.wait.exists():
        time.sleep(0.05)
    run.tag({"read": (run.input("feature") / "word.txt").read_text()})
    return cfg.x


if __name__ == "__main__":
    main()
