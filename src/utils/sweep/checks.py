"""What is refused of any `-m`, whichever sweeper runs it, before that sweeper is made."""

from typing import Any

from src.utils.errors import UserError, plain_errors
from src.utils.layout import Experiment
from src.utils.sweep.direction import directions

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class CheckSweep(Callback):
    """One line, and nothing written: a stage has nothing to search, and a direction fits the monitor."""

    def __init__(self, experiment: str) -> None:
        self.here = Experiment.named(experiment)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        with plain_errors():
            if self.here.stage != "model":
                raise UserError(
                    f"-m searches the settings of a model; {self.here} makes data, and each run would "
                    "replace what the one before made: run it without -m"
                )
            if "direction" in config.hydra.sweeper and not config.get("resume"):  # else later
                directions(config)
