"""The loop of a sweep: Optuna asks, a launcher runs, until as many trials are finished as were wanted."""

import logging
import math
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

from src.utils.errors import UserError, one_line
from src.utils.process import this_process
from src.utils.study import study as studies
from src.utils.study.search_space import SearchSpace
from src.utils.study.study import INTERRUPTED, REASON, REDUNDANT
from src.utils.study.trial import PRUNED, REFUSED, TrialLink
from src.utils.sweep.job import JobFailed, described, format_error, plain
from src.utils.sweep.launcher import ForkLauncher

import optuna
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

log = logging.getLogger(__name__)
TrialEnded = Callable[[FrozenTrial], None]
Interrupted = Callable[[int], None]  # how often there was a Ctrl-C; called in a signal handler
LOST = re.compile(
    "Cannot tell a|Should not reach"
)  # what Optuna says of a trial that has ended meanwhile


class Search:
    """One process's part in a study."""

    def __init__(
        self,
        study: optuna.Study,
        space: SearchSpace,
        launcher: Launcher,
        parent_run: str,
        config: DictConfig,
        extend: Callable[[DictConfig, optuna.Trial], None] | None,
    ) -> None:
        self.study, self.space, self.launcher = study, space, launcher
        self.parent_run, self.config, self.extend = parent_run, config, extend
        self.settings: DictConfig = config.hydra.sweeper
        self.n_trials = studies.total(study)
        self.failures: list[FrozenTrial] = []  # for good: not tried again
        self.refused = ""  # why no trial of this study can be right
        self.interrupts = 0
        self.listeners: Sequence[TrialEnded] = ()

    def run(self, n_jobs: int, listeners: Sequence[TrialEnded], interrupted: Interrupted) -> None:
        """Until `n_trials` are finished, too many have failed, or Ctrl-C."""
        self.listeners, self.interrupted = listeners, interrupted
        previous = signal.signal(signal.SIGINT, self._interrupt)
        try:
            if isinstance(self.launcher, ForkLauncher):
                self.launcher.wait()
            while self._goes_on():
                for lost in studies.requeue_lost_trials(self.study):
                    self._tell(lost)
                wanted = studies.wanted(self.study)
                if wanted <= 0:  # other processes are at the last ones
                    time.sleep(1)
                    continue
                self._optimize(wanted, min(n_jobs, wanted))
        finally:
            signal.signal(signal.SIGINT, previous)

    def _optimize(self, wanted: int, n_jobs: int) -> None:
        try:
            self.study.optimize(
                self._objective,
                wanted,
                n_jobs=n_jobs,
                catch=(Exception,),
                callbacks=[self._after_trial],
            )
        except (AssertionError, ValueError, UpdateFinishedTrialError) as error:
            if not isinstance(error, UpdateFinishedTrialError) and LOST.match(str(error)) is None:
                raise
            log.warning(
                "another process had taken over a trial of this one: its result is not used"
            )

    def verdict(self) -> None:
        """Ends the program as what happened asks for."""
        if self.refused:
            raise UserError(self.refused)
        if self.too_many_failures:
            reasons = {trial.user_attrs[REASON] for trial in self.failures}
            tried = len(self.failures) + studies.count(self.study, *studies.FINISHED)
            raise UserError(
                f"{len(self.failures)} of {max(tried, self.n_trials)} trials failed, more than "
                f"hydra.sweeper.max_failure_rate={self.settings.max_failure_rate} allows: "
                + "; ".join(sorted(reasons))
            )
        if self.interrupts:
            sys.exit(130)

    @property
    def too_many_failures(self) -> bool:
        allowed: float = self.settings.max_failure_rate * self.n_trials
        return len(self.failures) > allowed

    @property
    def is_over(self) -> bool:
        """Before its study has all its trials: Ctrl-C, too many failures, or none that can be right."""
        used_up = len(self.failures) >= self.n_trials  # where all may fail, there would be no end
        return bool(self.interrupts or self.refused or self.too_many_failures or used_up)

    def _goes_on(self) -> bool:
        if self.is_over:
            return False
        if self.space.grid:
            running = studies.count(self.study, TrialState.RUNNING)
            return studies.wanted(self.study) > 0 or running > 0
        return studies.count(self.study, *studies.FINISHED) < self.n_trials

    def _objective(self, trial: optuna.Trial) -> float | list[float]:
        trial.set_user_attr(studies.PROCESS, this_process())
        if studies.is_redundant(trial):
            raise self._failure(trial, REDUNDANT)
        try:
            result = self._launched(trial)
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            # before or beside the job, or Ctrl-C in it; what else it raises is in its result
            raise self._failure(trial, self._cause(format_error(error))) from error
        if self.study._storage.get_trial(trial._trial_id).state.is_finished():
            log.warning("trial %d was taken over: its result is not used", trial.number)
        return self._value(trial, plain(result))

    def _launched(self, trial: optuna.Trial) -> JobReturn:
        if self.space.grid:
            trial._fixed_params = self.space.points[studies.point_of(trial)]
        for name, distribution in self.space.space.items():
            trial._suggest(name, distribution)
        if self.extend is not None:
            self.extend(self.config, trial)
        link = TrialLink(
            self.study.study_name,
            trial.number,
            trial._trial_id,
            self.parent_run,
            len(self.study.directions),
        )
        overrides = [*self.space.overrides(trial.params), link.override()]
        (result,) = self.launcher.launch([overrides], initial_job_idx=trial.number)
        return result

    def _value(self, trial: optuna.Trial, result: JobReturn) -> float | list[float]:
        value = result._return_value  # the property would print, and raise what is no surprise here
        if result.status is not JobStatus.COMPLETED:
            raise self._failure(trial, self._cause(described(result)))
        if isinstance(value, str) and value == PRUNED:
            raise optuna.TrialPruned
        values = list(value) if isinstance(value, list | tuple) else [value]
        if len(values) != len(self.study.directions):
            asked = len(self.study.directions)
            raise self._failure(trial, f"main returned {value}, not {asked} number(s)")
        if not all(isinstance(one, Real) and math.isfinite(one) for one in values):
            raise self._failure(trial, f"main returned {value}: no finite number")
        return [float(one) for one in values]

    def _cause(self, reason: str) -> str:
        """After a second Ctrl-C jobs end by that; where others launch them, the first reaches them, too."""
        stopped = self.interrupts > (1 if isinstance(self.launcher, ForkLauncher) else 0)
        return INTERRUPTED if stopped else reason

    def _failure(self, trial: optuna.Trial, reason: str) -> JobFailed:
        trial.set_user_attr(REASON, one_line(reason))
        return JobFailed(reason)

    def _after_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        if trial.state is TrialState.FAIL:
            self._failed(trial)
        self._tell(trial)
        if self.is_over or studies.wanted(study) <= 0:
            study.stop()

    def _failed(self, trial: FrozenTrial) -> None:
        """What failed is tried again; `max_retries` times where it was its own fault."""
        reason, before = trial.user_attrs[REASON], studies.failures(trial)
        if REFUSED in trial.user_attrs:
            self.refused = trial.user_attrs[REFUSED]
        elif reason == INTERRUPTED:
            studies.queue_again(self.study, trial, before)
        elif reason != REDUNDANT and before < self.settings.max_retries:
            studies.queue_again(self.study, trial, before + 1)
        elif reason != REDUNDANT:
            self.failures.append(trial)

    def _tell(self, trial: FrozenTrial) -> None:
        for listener in self.listeners:
            listener(trial)

    def _interrupt(self, *_: Any) -> None:
        """Ctrl-C: once, let the running trials finish; twice, stop them."""
        self.interrupts += 1
        self.interrupted(self.interrupts)
        if self.interrupts == 1:
            return
        if isinstance(self.launcher, ForkLauncher):
            self.launcher.stop()
        else:
            raise KeyboardInterrupt
