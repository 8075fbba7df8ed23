"""The board of a study that other processes work on: what a person sees after `workers=slurm`.

It is the live table of a search on this machine, read from the study store. It runs nothing itself: Ctrl-C
closes it, and the workers go on.

    … -m … workers=slurm workers.count=16      submits workers, then shows the board
    lab studies NAME --follow                  shows it again, of any study
"""

import logging
import shlex
import time
from collections.abc import Sequence

from src.utils.errors import UserError
from src.utils.paths import Experiment, display_path
from src.utils.study.study import EXPERIMENT, count_trials, is_complete
from src.utils.sweep.live_table import LiveTable, print_study_summary
from src.utils.terminal import lab_command, print_hints
from src.utils.workers.job import Submitted
from src.utils.workers.states import LAST_LINES, WorkerStates, ask_engines, log_files

import optuna
from optuna.trial import TrialState

log = logging.getLogger(__name__)
REFRESH = 2.0  # seconds between two looks at the study
ASK = 15.0  # seconds between two questions to an engine, which many people ask
QUIET = 60.0  # seconds without a running trial, after which a study without workers has been left


def show_board(
    study: optuna.Study, jobs: Sequence[Submitted] = (), overrides: Sequence[str] = ()
) -> None:
    """Show a study until it is done, or until Ctrl-C.

    Args:
        jobs: what was submitted for it; a search on some machine has none.
        overrides: those of Hydra; the commands of the summary repeat `hydra.sweeper.storage`.

    Raises:
        UserError: nothing works on the study any more, and it isn't done.
    """
    try:
        with LiveTable(study, None) as table:
            Board(study, jobs, table).watch()
    except KeyboardInterrupt:
        _print_how_to_return(study, jobs)
        return
    print_study_summary(study, Experiment.named(study.user_attrs[EXPERIMENT]), list(overrides))


class Board:
    """Polls a study and the engines of its workers."""

    def __init__(
        self, study: optuna.Study, jobs: Sequence[Submitted], table: LiveTable
    ) -> None:
        self.study, self.jobs, self.table = study, jobs, table
        self.ended = self._ended_trials()
        self.workers: list[WorkerStates] = []
        self.asked = self.seen = time.monotonic()

    def watch(self) -> None:
        """Return when the study is done.

        Raises:
            UserError: nothing works on the study any more, and it isn't done.
        """
        self._ask()
        while True:
            is_done = is_complete(self.study)  # first: the last trials are shown then
            self._show_ended()
            if is_done:
                return
            self._check_somebody_works()
            time.sleep(REFRESH)

    def _ended_trials(self) -> set[int]:
        trials = self.study.get_trials(deepcopy=False)
        return {trial.number for trial in trials if trial.state.is_finished()}

    def _show_ended(self) -> None:
        trials = self.study.get_trials(deepcopy=False)
        for number in sorted(self._ended_trials() - self.ended):
            self.table.on_trial_end(trials[number])
            self.ended.add(number)

    def _ask(self) -> None:
        """Show what the workers are doing, and say it where it has changed."""
        workers = ask_engines(self.jobs)
        ...
