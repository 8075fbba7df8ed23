"""The board of a sweep: a live table on a terminal, a line a trial elsewhere."""

import logging
import threading
from datetime import datetime
from types import TracebackType

from src.utils.study import total
from src.utils.summary import spell

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich import get_console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

log = logging.getLogger(__name__)
REFRESH = 1.0  # seconds


class Board:
    """Reads all it shows from the study, so it also shows what other processes do on it."""

    def __init__(self, study: optuna.Study, n_jobs: int) -> None:
        self.study, self.n_trials, self.n_jobs = study, total(study), n_jobs
        self.live = Live(console=get_console(), auto_refresh=False, transient=True)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Board":
        if get_console().is_terminal:
            self.live.start()
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
            self.live.stop()

    def trial_ended(self, trial: FrozenTrial) -> None:
        """A line for a trial that has ended."""
        seconds = trial.duration.total_seconds() if trial.duration else 0.0
        value = ", ".join(f"{value:.4f}" for value in trial.values or [])
        if trial.state is TrialState.PRUNED and trial.intermediate_values:
            value = f"{trial.intermediate_values[max(trial.intermediate_values)]:.4f}"
        reason = trial.user_attrs.get("reason", "") if trial.state is TrialState.FAIL else value
        state = trial.state.name.lower()
        log.info(
            "trial %d %-8s %s  %s  %.1f s",
            trial.number,
            state,
            reason,
            spell(trial.params),
            seconds,
        )

    def _watch(self) -> None:
        while not self._over.wait(REFRESH):
            self.live.update(self._table(), refresh=True)

    def _table(self) -> Table:
        trials = self.study.get_trials(deepcopy=False)
        table = Table(title=self._headline(trials), title_justify="left", expand=False)
        for column in ("running", "parameters", "epoch", "last value", "seconds"):
            table.add_column(column)
        now = datetime.now()
        for trial in trials:
            if trial.state is TrialState.RUNNING:
                epoch = max(trial.intermediate_values, default=0)
                value = f"{trial.intermediate_values[epoch]:.4f}" if epoch else ""
                seconds = (now - (trial.datetime_start or now)).total_seconds()
                cells = (
                    str(trial.number),
                    spell(trial.params),
                    str(epoch or ""),
                    value,
                    f"{seconds:.0f}",
                )
                table.add_row(*(escape(cell) for cell in cells))
        return table

    def _headline(self, trials: list[FrozenTrial]) -> str:
        counts = {state: sum(trial.state is state for trial in trials) for state in TrialState}
        done = counts[TrialState.COMPLETE] + counts[TrialState.PRUNED]
        parts = [
            f"{done}/{self.n_trials} trials",
            f"{counts[TrialState.PRUNED]} pruned, {counts[TrialState.FAIL]} failed",
            *best_so_far(self.study),
            *self._time_left(trials, self.n_trials - done),
        ]
        return escape(" · ".join(parts))

    def _time_left(self, trials: list[FrozenTrial], left: int) -> list[str]:
        times = [trial.duration.total_seconds() for trial in trials if trial.duration]
        if not times:
            return []
        return [f"about {sum(times) / len(times) * max(left, 0) / self.n_jobs:.0f} s left"]


def best_so_far(study: optuna.Study) -> list[str]:
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        return []
    if len(study.directions) > 1:
        return [f"{len(study.best_trials)} trials on the Pareto front"]
    return [f"best {study.best_value:.4f} (trial {study.best_trial.number})"]
