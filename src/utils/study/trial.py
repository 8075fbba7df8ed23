"""Which trial of which study this process runs. It travels in the environment, not in the config."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from src.utils.config.sweep_settings import DIRECTIONS, Mode, direction_conflict
from src.utils.errors import UserError
from src.utils.terminal import format_settings

from hydra.core.hydra_config import HydraConfig

if TYPE_CHECKING:
    import optuna

ENV = "JIKKEN_TRIAL"
SEPARATOR = " | "
LONGEST = 60  # letters of a run's name
REFUSED = "refused"  # attribute of a trial: why no trial of its study can be right
PRUNED = "pruned"  # what a program returns, instead of a value, when its trial was pruned


class Pruned(Exception):
    """Raised inside a training to end a trial that the pruner gives up."""


@contextmanager
def optuna_pruned() -> Iterator[None]:
    """optuna.TrialPruned, which the callbacks of other libraries raise, as our own Pruned."""
    try:
        yield
    except Exception as error:
        optuna = sys.modules.get("optuna")  # else nobody can have raised it
        if optuna is not None and isinstance(error, optuna.TrialPruned):
            raise Pruned(str(error)) from error
        raise


@dataclass(frozen=True)
class TrialLink:
    """How a job finds its trial, and its place under the study's run."""

    study: str
    number: int
    trial_id: int
    parent_run: str
    objectives: int  # with several, nothing is pruned

    @classmethod
    def current(cls) -> "TrialLink | None":
        if ENV not in os.environ:
            return None
        number, trial_id, objectives, parent_run, study = os.environ[ENV].split(SEPARATOR, 4)
        return cls(study, int(number), int(trial_id), parent_run, int(objectives))

    def override(self) -> str:
        """How Hydra hands it to the job, whatever launches that."""
        values = (self.number, self.trial_id, self.objectives, self.parent_run, self.study)
        text = SEPARATOR.join(map(str, values)).replace("'", r"\'")
        return f"+hydra.job.env_set.{ENV}='{text}'"

    @property
    def name(self) -> str:
        """`trial 7 learning_rate=0.002 hidden=64`, or the number alone where that gets long."""
        params = {name.lstrip("+"): value for name, value in self.open().params.items()}
        tried = f"trial {self.number} {format_settings(params)}"
        return tried if len(tried) <= LONGEST else f"trial {self.number}"

    def tags(self) -> dict[str, str]:
        return {
            "mlflow.parentRunId": self.parent_run,
            "optuna.study": self.study,
            "optuna.trial": str(self.number),
        }

    def set_attribute(self, name: str, value: str) -> None:
        """Set an attribute of the trial."""
        self.open().set_user_attr(name, value)

    def check_direction(self, mode: Mode) -> None:
        """A study goes the way in which the monitored metric is good, or ends with this trial.

        Raises:
            UserError: it goes the other way.
        """
        direction = self.open().study.direction.name.lower()
        if self.objectives == 1 and direction != DIRECTIONS[mode]:
            text = direction_conflict(mode, direction)
            self.set_attribute(REFUSED, text)
            raise UserError(text)

    def open(self) -> "optuna.Trial":
        """The trial itself, with the sweep's pruner."""
        return _opened(self)


@lru_cache(maxsize=1)
def _opened(link: TrialLink) -> "optuna.Trial":
    """With a cheap sampler, since nothing is suggested; the sweep has looked after the tables."""
    from src.utils.study.samplers import pruner_of
    from src.utils.study.storage import open_storage

    import optuna

    settings = HydraConfig.get().sweeper
    study = optuna.load_study(
        study_name=link.study,
        storage=open_storage(settings.storage, ready=True),
        sampler=optuna.samplers.RandomSampler(),
        pruner=pruner_of(settings),
    )
    return optuna.Trial(study, link.trial_id)
