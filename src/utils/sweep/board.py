"""The board of a study that other processes work on: what a person sees after `workers=slurm`.

It is the live table of a search on this machine, read from the study store. It runs nothing itself: Ctrl-C
closes it, and the workers go on.

    … -m … workers=slurm workers.count=16      submits workers, then shows the board
    lab studies NAME --follow                  shows it again, of any study
"""

import logging
import shlex
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from src.utils.errors import UserError, first_line
from src.utils.paths import Experiment, display_path
from src.utils.study.overview import living_trials
from src.utils.study.study import (
    EXPERIMENT,
    FINISHED,
    count_trials,
    is_complete,
    n_trials_of,
)
from src.utils.sweep.live_table import LiveTable, print_study_summary
from src.utils.terminal import lab_command, print_hints
from src.utils.workers.job import Submitted
from src.utils.workers.states import WorkerStates, ask_engines, last_words

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from rich import get_console

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

    def __init__(self, study: optuna.Study, jobs: Sequence[Submitted], table: LiveTable) -> None:
        self.study, self.jobs, self.table = study, jobs, table
        self.ended = {trial.number for trial in self._ended_trials()}
        self.workers: list[WorkerStates] = []
        self.asked = -ASK
        self.alive = time.monotonic()  # when somebody worked on the study last
        self.can_read = True

    def watch(self) -> None:
        """Return when the study is done.

        Raises:
            UserError: nobody works on the study any more, and it isn't done.
        """
        while True:
            with self._surviving_storage():
                if self._show_ended():
                    return
                self._check_workers()
            time.sleep(REFRESH)

    @contextmanager
    def _surviving_storage(self) -> Iterator[None]:
        """A database that is away for a moment ends no board."""
        try:
            yield
        except StorageInternalError as error:
            if self.can_read:
                log.warning(
                    "the study store can't be read, and is tried again: %s", first_line(error)
                )
            self.can_read = False
        else:
            self.can_read = True

    def _show_ended(self) -> bool:
        """Show the trials that have ended; returns whether these were the last."""
        is_done = is_complete(self.study)  # before: the last ones are shown, too
        for trial in self._ended_trials():
            if trial.number not in self.ended:
                self.table.on_trial_end(trial)
                self.ended.add(trial.number)
        return is_done

    def _ended_trials(self) -> list[FrozenTrial]:
        trials = self.study.get_trials(deepcopy=False)
        return [trial for trial in trials if trial.state.is_finished()]

    def _check_workers(self) -> None:
        if time.monotonic() - self.asked >= ASK:
            self._ask()
        if not self._is_worked_on() and not is_complete(self.study):
            raise self._end()

    def _ask(self) -> None:
        """Show what the workers are doing."""
        self.workers, self.asked = ask_engines(self.jobs), time.monotonic()
        living = [
            its for its in self.workers if not its.have_ended
        ]  # of a resumed study, earlier jobs have
        text = "; ".join(map(str, living or self.workers[-1:]))
        if text != self.table.workers and not get_console().is_terminal:
            log.info(text)
        self.table.workers = text

    def _is_worked_on(self) -> bool:
        """By workers that have not ended, or by any process with a trial that runs."""
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        has_workers = not all(one.have_ended for one in self.workers)
        if has_workers or living_trials(self.study._storage, self.study._study_id, running):
            self.alive = time.monotonic()
        return time.monotonic() - self.alive < (ASK if self.jobs else QUIET)

    def _end(self) -> UserError:
        """Why nobody works any more, as far as a worker says it."""
        name, done = self.study.study_name, count_trials(self.study, *FINISHED)
        said = last_words(self.jobs)
        if said is not None:
            file, lines = said
            log.warning("%s ends with:\n%s", display_path(file), textwrap.indent(lines, "  "))
        who, more = ("all workers", " workers=…") if self.jobs else ("all processes", "")
        return UserError(
            f"{who} of {name} have ended after {done} of {n_trials_of(self.study)} trials; "
            f"it goes on with -m resume_study={shlex.quote(name)}{more}"
        )


def _print_how_to_return(study: optuna.Study, jobs: Sequence[Submitted]) -> None:
    lab, name = lab_command(), shlex.quote(study.study_name)
    log.info("%s goes on without this table", study.study_name)
    commands = {"return": f"{lab} studies {name} --follow", "list": f"{lab} studies"}
    print_hints(commands | ({"stop": f"{lab} stop {name}"} if jobs else {}))
