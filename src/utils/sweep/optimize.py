"""The optimization of a study: `study.optimize` with a launcher, until the study has all its trials.

| a trial …                                        | consequence                                        |
|--------------------------------------------------|----------------------------------------------------|
| fails                                            | it is tried again, `max_retries` times             |
| fails for good                                   | it counts for `max_failure_rate`                   |
| is interrupted, or its sweep was killed          | it is always tried again                           |
| is redundant: other processes have done the last | it fails, and does not count                       |
| finds that direction and `mode` are opposite     | the sweep ends                                     |
"""

import logging
import math
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from numbers import Real
from typing import Any

from src.utils.errors import UserError, format_error, one_line
from src.utils.pipeline.pins import pins_override
from src.utils.process import exit_code, this_process
from src.utils.store.record import REASON
from src.utils.study.search_space import CustomSearchSpace, SearchSpace
from src.utils.study.study import (
    FINISHED,
    INTERRUPTED,
    PROCESS,
    REDUNDANT,
    RUN_ID,
    count_failures,
    count_trials,
    grid_index,
    is_complete,
    is_redundant,
    n_trials_of,
    pinned_inputs,
    remaining_trials,
    requeue_lost_trials,
    requeue_trial,
    retry_trial,
)
from src.utils.study.trial import PRUNED, REFUSED, TrialLink
from src.utils.sweep.job import JobFailed, convert_result, failure_reason
from src.utils.sweep.launcher import ForkLauncher

import optuna
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

log = logging.getLogger(__name__)
OnTrialEnd = Callable[[FrozenTrial], None]
OnInterrupt = Callable[[int], None]  # the number of Ctrl-C; called in a signal handler
SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Optuna's messages where a trial that it runs has been finished by another process
TAKEN_OVER = re.compile("Cannot tell a|Should not reach")


class Optimization:
    """Optimizes a study in this process; others may do so at the same time."""

    def __init__(
        self,
        study: optuna.Study,
        space: SearchSpace,
        launcher: Launcher,
        parent_run: str,
        config: DictConfig,
        custom_search_space: CustomSearchSpace | None,
    ) -> None:
        self.study, self.space, self.launcher = study, space, launcher
        self.parent_run, self.config = parent_run, config
        self.custom_search_space = custom_search_space
        self.settings: DictConfig = config.hydra.sweeper
        self.n_trials = n_trials_of(study)
        self.pins = pins_override(pinned_inputs(study))
        self.failures: list[FrozenTrial] = []  # trials that have failed for good
        self.refusal = ""  # why every trial of this study must fail
        self.interrupts = 0  # Ctrl-C, and SIGTERM as two of them
        self.launched: set[int] = set()  # the numbers of the trials whose jobs run
        self.ended_by = signal.SIGINT

    @contextmanager
    def interruptible(self, on_interrupt: OnInterrupt) -> Iterator[None]:
        """Handle Ctrl-C and SIGTERM, before the first trial and after the last one, too.

        Args:
            on_interrupt: called at each Ctrl-C.
        """
        self.on_interrupt = on_interrupt
        previous = {one: signal.signal(one, self._interrupt) for one in SIGNALS}
        try:
            yield
        finally:
            for one, handler in previous.items():
                signal.signal(one, handler)

    def run(self, n_jobs: int, callbacks: Sequence[OnTrialEnd]) -> None:
        """Run trials until `n_trials` are finished, too many have failed, or Ctrl-C or SIGTERM.

        Args:
            n_jobs: how many trials run at the same time.
            callbacks: called with each trial that has ended.
        """
        self.callbacks = callbacks
        if isinstance(self.launcher, ForkLauncher):
            self.launcher.wait_for_server()
        while not self._is_done():
            for trial in requeue_lost_trials(self.study):
                self._call_back(trial)
            remaining = remaining_trials(self.study)
            if remaining <= 0:  # other processes run the last trials
                time.sleep(1)
                continue
            with suppress(KeyboardInterrupt):  # of `_interrupt`
                self._optimize(remaining, min(n_jobs, remaining))

    def exit_unless_successful(self) -> None:
        """Exit with code 130 after Ctrl-C, 143 after SIGTERM; a worker with 75.

        Raises:
            UserError: every trial must fail, or more have failed than `max_failure_rate` allows.
        """
        if self.refusal:
            raise UserError(self.refusal)
        if self.too_many_failures:
            reasons = {trial.user_attrs[REASON] for trial in self.failures}
            trials = len(self.failures) + count_trials(self.study, *FINISHED)
            raise UserError(
                f"{len(self.failures)} of {max(trials, self.n_trials)} trials failed, more than "
                f"hydra.sweeper.max_failure_rate={self.settings.max_failure_rate} allows: "
                + "; ".join(sorted(reasons))
            )
        if self.interrupts:
            sys.exit(exit_code(self.ended_by))

    @property
    def too_many_failures(self) -> bool:
        allowed: float = self.settings.max_failure_rate * self.n_trials
        return len(self.failures) > allowed

    @property
    def must_stop(self) -> bool:
        """Whether the sweep ends although its study lacks trials."""
        # With max_failure_rate=1.0 there would be no other end.
        all_failed = len(self.failures) >= self.n_trials
        return bool(self.interrupts or self.refusal or self.too_many_failures or all_failed)

    def _is_done(self) -> bool:
        return self.must_stop or is_complete(self.study)

    def _optimize(self, n_trials: int, n_jobs: int) -> None:
        try:
            self.study.optimize(
                self._objective,
                n_trials,
                n_jobs=n_jobs,
                catch=(Exception,),
                callbacks=[self._on_trial_end],
            )
        except (AssertionError, ValueError, UpdateFinishedTrialError) as error:
            is_known = isinstance(error, UpdateFinishedTrialError) or TAKEN_OVER.match(str(error))
            if not is_known:
                raise
            log.warning(
                "another process had taken over a trial of this one: its result is not used"
            )

    def _objective(self, trial: optuna.Trial) -> float | list[float]:
        trial.set_user_attr(PROCESS, this_process())
        if is_redundant(trial):
            raise self._failure(trial, REDUNDANT)
        try:
            self._suggest(trial)
            result = self._launch(trial)
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            # Not an error of the job, which is in its result: before it, in the launcher, or Ctrl-C
            if isinstance(error, SystemExit) and error.code == exit_code(signal.SIGTERM):
                self._count_interrupt(signal.SIGTERM)  # to a training in this process
            raise self._job_failure(trial, format_error(error)) from error
        if self.study._storage.get_trial(trial._trial_id).state.is_finished():
            log.warning("trial %d was taken over: its result is not used", trial.number)
        return self._values(trial, convert_result(result))

    def _suggest(self, trial: optuna.Trial) -> None:
        if self.space.is_grid:
            trial._fixed_params = self.space.grid_points[grid_index(trial)]
        for name, distribution in self.space.distributions.items():
            trial._suggest(name, distribution)
        if self.custom_search_space is not None:
            self.custom_search_space(self.config, trial)

    def _launch(self, trial: optuna.Trial) -> JobReturn:
        n_objectives = len(self.study.directions)
        name, trial_id = self.study.study_name, trial._trial_id
        link = TrialLink(name, trial.number, trial_id, self.parent_run, n_objectives)
        run_id = trial.user_attrs.get(RUN_ID)  # it was interrupted before
        resume = [f"resume_run='{run_id}'"] if run_id else []
        own = self.space.trial_overrides(trial.params)
        overrides = [*own, *resume, link.to_override(), self.pins]
        self.launched.add(trial.number)
        try:
            (result,) = self.launcher.launch([overrides], initial_job_idx=trial.number)
        finally:
            self.launched.discard(trial.number)
        return result

    def _values(self, trial: optuna.Trial, result: JobReturn) -> list[float]:
        value = result._return_value  # the property would raise the error of a failed job
        if result.status is not JobStatus.COMPLETED:
            raise self._job_failure(trial, failure_reason(result))
        if isinstance(value, str) and value == PRUNED:
            raise optuna.TrialPruned
        values = list(value) if isinstance(value, list | tuple) else [value]
        expected = len(self.study.directions)
        if len(values) != expected:
            raise self._failure(trial, f"main returned {value}, not {expected} number(s)")
        if not all(isinstance(one, Real) and math.isfinite(one) for one in values):
            raise self._failure(trial, f"main returned {value}: no finite number")
        return [float(one) for one in values]

    def _job_failure(self, trial: optuna.Trial, reason: str) -> JobFailed:
        """Jobs of the fork launcher are interrupted by the second Ctrl-C, those of others by the first."""
        first = 2 if isinstance(self.launcher, ForkLauncher) else 1
        return self._failure(trial, INTERRUPTED if self.interrupts >= first else reason)

    def _failure(self, trial: optuna.Trial, reason: str) -> JobFailed:
        trial.set_user_attr(REASON, one_line(reason))
        return JobFailed(reason)

    def _on_trial_end(self, study: optuna.Study, trial: FrozenTrial) -> None:
        if trial.state is TrialState.FAIL:
            self._handle_failure(trial)
        self._call_back(trial)
        if self.must_stop or remaining_trials(study) <= 0:
            study.stop()

    def _handle_failure(self, trial: FrozenTrial) -> None:
        """See the table at the top of this file."""
        reason, failures = trial.user_attrs[REASON], count_failures(trial)
        if REFUSED in trial.user_attrs:
            self.refusal = trial.user_attrs[REFUSED]
        elif reason == INTERRUPTED:
            requeue_trial(self.study, trial)
        elif reason != REDUNDANT and failures < self.settings.max_retries:
            retry_trial(self.study, trial)
        elif reason != REDUNDANT:
            self.failures.append(trial)

    def _call_back(self, trial: FrozenTrial) -> None:
        for callback in self.callbacks:
            callback(trial)

    def _interrupt(self, number: int, _: Any) -> None:
        """The first Ctrl-C lets the running trials finish, the second one stops them, and so does SIGTERM."""
        is_repeated = (
            number == self.ended_by == signal.SIGTERM
        )  # by a scheduler: it is the same request
        self._count_interrupt(number)
        if self.interrupts == 1 or is_repeated:
            return
        if isinstance(self.launcher, ForkLauncher):
            self.launcher.stop()
        elif self.launched:  # perhaps in this process
            raise KeyboardInterrupt

    def _count_interrupt(self, number: int) -> None:
        if number == signal.SIGTERM:
            self.ended_by = signal.SIGTERM
            self.interrupts += 1
        self.interrupts += 1
        self.on_interrupt(self.interrupts)
