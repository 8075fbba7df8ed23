"""The link from a run to its trial: which trial of which study this process runs, and how a trial is pruned.

The sweep sets the link in the environment of the job, not in its config.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from src.utils.config.sweep_settings import DIRECTIONS, Mode, direction_conflict
from src.utils.errors import UserError
from src.utils.process import TRIAL
from src.utils.store.record import EARLIER_TRIALS, PARENT, TRIAL_NUMBER, TRIAL_STATE
from src.utils.terminal import format_settings

from hydra.core.hydra_config import HydraConfig

if TYPE_CHECKING:
    import optuna
    from mlflow.tracking import MlflowClient

SEPARATOR = " | "
MAX_NAME = 80  # characters of a run's name
REFUSED = "refused"  # user attribute of a trial: why every trial of its study must fail
PRUNED = "pruned"  # what a program returns, instead of a value, when its trial was pruned


class Pruned(Exception):
    """Raised inside a training when the pruner stops its trial."""


@contextmanager
def convert_trial_pruned() -> Iterator[None]:
    """Convert optuna.TrialPruned, which callbacks of other libraries raise, to `Pruned`.

    Raises:
        Pruned: optuna.TrialPruned was raised inside.
    """
    try:
        yield
    except Exception as error:
        optuna = sys.modules.get("optuna")  # if it is not imported, the error is another one
        if optuna is not None and isinstance(error, optuna.TrialPruned):
            raise Pruned(str(error)) from error
        raise


def trial_name(number: int, params: Mapping[str, Any]) -> str:
    """The name of a trial's run: `#7 learning_rate=0.002 hidden=64`; what is too long ends with `…`.

    Of dotted settings only the last word stands in it, where that is unique.
    """
    keys = [name.lstrip("+") for name in params]
    words = [key.rpartition(".")[2] for key in keys]
    short = [word if words.count(word) == 1 else key for key, word in zip(keys, words, strict=True)]
    settings = dict(zip(short, params.values(), strict=True))
    name = f"#{number} {format_settings(settings)}".rstrip()
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1].rstrip()}…"


@dataclass(frozen=True)
class TrialLink:
    """Identifies the trial of a job, and the run of its study."""

    study: str
    number: int
    trial_id: int
    parent_run: str
    n_objectives: int  # with several, nothing is pruned

    @classmethod
    def current(cls) -> "TrialLink | None":
        """Return the trial of this process; None outside a study."""
        if TRIAL not in os.environ:
            return None
        number, trial_id, n_objectives, parent_run, study = os.environ[TRIAL].split(SEPARATOR, 4)
        return cls(study, int(number), int(trial_id), parent_run, int(n_objectives))

    def to_override(self) -> str:
        """Return the override by which Hydra sets the environment variable, with any launcher."""
        values = (self.number, self.trial_id, self.n_objectives, self.parent_run, self.study)
        text = SEPARATOR.join(map(str, values)).replace("'", r"\'")
        return f"+hydra.job.env_set.{TRIAL}='{text}'"

    @property
    def name(self) -> str:
        """The run's name, what it tries: `#7 learning_rate=0.002 hidden=64`"""
        return trial_name(self.number, self.open().params)

    def tags(self) -> dict[str, str]:
        """Return the tags of the run."""
        return {
            PARENT: self.parent_run,
            "optuna.study": self.study,
            TRIAL_NUMBER: str(self.number),
        }

    def set_user_attr(self, name: str, value: str) -> None:
        """Set a user attribute of the trial."""
        self.open().set_user_attr(name, value)

    def take_up(self, client: "MlflowClient", run_id: str) -> None:
        """Make a run that of this trial; it may be that of an interrupted one, which this one repeats."""
        run = client.get_run(run_id)
        tags, before = run.data.tags, run.data.tags.get(TRIAL_NUMBER, "")
        if before != str(self.number):
            name = run.info.run_name.replace(f"#{before}", f"#{self.number}", 1)
            client.update_run(run_id, name=name)
            client.set_tag(run_id, TRIAL_NUMBER, str(self.number))
            client.set_tag(
                run_id, EARLIER_TRIALS, f"{tags.get(EARLIER_TRIALS, '')} {before}".strip()
            )
        if TRIAL_STATE in tags:
            client.delete_tag(run_id, TRIAL_STATE)
        self.set_user_attr("run_id", run_id)

    def report(self, value: float, step: int, resumes: bool) -> bool:
        """Report an intermediate value; returns whether the pruner ends the trial.

        A trial that was interrupted has its earlier reports. It is not judged again by steps that it repeats.

        Args:
            resumes: whether the run is that of the earlier reports. Those of a new run replace them.

        Raises:
            UserError: another process has taken over the trial.
        """
        from optuna.exceptions import UpdateFinishedTrialError  # late: most runs need no Optuna

        trial, earlier = self.open(), _earlier_reports(self)
        if resumes and step in earlier:
            return False
        try:
            if step in earlier:
                trial.storage.set_trial_intermediate_value(self.trial_id, step, value)
            else:
                trial.report(value, step)
            return _should_prune(trial, step)
        except UpdateFinishedTrialError:
            text = f"trial {self.number} was taken over by another process, which had lost sight of this one"
            raise UserError(text) from None

    def check_direction(self, mode: Mode) -> None:
        """Compare the direction of the study with the mode of the monitored metric.

        A contradiction also ends the study, since each of its trials would fail.

        Raises:
            UserError: they contradict each other.
        """
        if self.n_objectives > 1:
            return  # the mode of one metric says nothing about them
        direction = self.open().study.direction.name.lower()
        if direction != DIRECTIONS[mode]:
            text = direction_conflict(mode, direction)
            self.set_user_attr(REFUSED, text)
            raise UserError(text)

    def close_connections(self) -> None:
        """Close the connections to the study's storage; the next use opens new ones."""
        from src.utils.study.storage import engine_of  # late: most runs need no Optuna

        engine = engine_of(self.open().study._storage)
        if engine is not None:
            engine.dispose()

    def open(self) -> "optuna.Trial":
        """Open the trial in the study's storage, with the pruner of the sweep.

        Raises:
            UserError: the storage can't be opened.
        """
        return _open_trial(self)


@lru_cache(maxsize=1)
def _open_trial(link: TrialLink) -> "optuna.Trial":
    from src.utils.study.samplers import create_pruner  # late: most runs need no Optuna
    from src.utils.study.storage import open_storage

    import optuna

    settings = HydraConfig.get().sweeper
    study = optuna.load_study(
        study_name=link.study,
        storage=open_storage(settings.storage, tables_exist=True),
        sampler=optuna.samplers.RandomSampler(),  # a cheap one: nothing is suggested here
        pruner=create_pruner(settings),
    )
    return optuna.Trial(study, link.trial_id)


@lru_cache(maxsize=1)
def _earlier_reports(link: TrialLink) -> frozenset[int]:
    """The steps that the trial had reported before it was interrupted."""
    return frozenset(link.open()._cached_frozen_trial.intermediate_values)


def _should_prune(trial: "optuna.Trial", step: int) -> bool:
    """Ask the pruner as if the trial had never been interrupted: Hyperband looks at its first number, others
    at its last report."""
    from src.utils.study.study import earlier_attempts  # late: most runs need no Optuna

    frozen = trial.storage.get_trial(trial._trial_id)
    frozen.number = next(iter(earlier_attempts(frozen)), trial.number)
    values = frozen.intermediate_values.items()
    frozen.intermediate_values = {one: value for one, value in values if one <= step}
    return trial.study.pruner.prune(trial.study, frozen)
