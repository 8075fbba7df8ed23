"""The output of a sweep on the terminal: its live table, a line for each trial, and the summary at the end.

| part               | shows                                                                              |
|--------------------|------------------------------------------------------------------------------------|
| the live table     | the running trials, with a sparkline of what they report; the progress of the study |
| a line for a trial | that it has ended, with its value or why it failed                                 |
| the summary        | the best trials, or the Pareto front, and the commands that may follow             |

All of it is read from the study, so it includes the trials of other processes that share the study.
"""

import logging
import shlex
import socket
import threading
from collections import Counter
from contextlib import suppress
from datetime import datetime, timedelta
from types import TracebackType

from src.utils.paths import Experiment
from src.utils.store.record import EQUAL, GOES_ON_WITH, NOT_RESUMED, REASON, REUSED
from src.utils.study.study import (
    FINISHED,
    GRID,
    INTERRUPTED,
    REDUNDANT,
    best_trials,
    count_trials,
    host_of,
    n_trials_of,
    was_interrupted,
)
from src.utils.terminal import (
    format_duration,
    format_metric,
    format_settings,
    print_from_signal_handler,
    print_hints,
    reload_command,
    run_command,
)

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from rich import get_console
from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

log = logging.getLogger(__name__)
REFRESH = 1.0  # seconds
CLOSING = 5.0  # seconds; a database that is away is waited for longer
BLOCKS = "▁▂▃▄▅▆▇█"
SPARKLINE = 20  # values of a trial: the last ones that it has reported
SUMMARY_TRIALS = 5
STATE_NAMES = {"fail": "failed"}  # other states have Optuna's names


class LiveTable:
    """Shows the running trials on a terminal, and logs a line for each trial that has ended."""

    def __init__(self, study: optuna.Study, n_jobs: int | None) -> None:
        """`n_jobs` trials run at a time; None: as many as other processes run."""
        self.study, self.n_trials, self.n_jobs = study, n_trials_of(study), n_jobs
        self.workers = ""  # a line about them, where an engine keeps them alive
        self.live = Live(console=get_console(), auto_refresh=False, transient=True)
        self.interrupts = 0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._refresh, daemon=True)

    def __enter__(self) -> "LiveTable":
        is_grid = self.study.user_attrs[GRID]
        source = "every combination once" if is_grid else "hydra.sweeper.n_trials"
        at_a_time = f", {self.n_jobs} at a time" if self.n_jobs else ""
        line = "%s: %d trials (%s)%s"
        log.info(line, self.study.study_name, self.n_trials, source, at_a_time)
        if len(self.study.directions) > 1:
            log.info("with several objectives nothing is pruned")
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
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(CLOSING)
            self.live.stop()

    def on_trial_end(self, trial: FrozenTrial) -> None:
        """Log one line about a trial that has ended."""
        reason, state = trial.user_attrs.get(REASON, ""), _state(trial)
        if reason == REDUNDANT:
            return
        failed = trial.state is TrialState.FAIL
        reason = "" if state == INTERRUPTED else reason
        parts = [
            f"trial {trial.number:<3} {STATE_NAMES.get(state, state):8}",
            reason if failed else _format_values(trial),
            format_settings(trial.params),
            format_duration(trial.duration),
            _earlier_run(trial),
            "← best so far" if self._is_best(trial) else "",
        ]
        log.log(logging.WARNING if failed else logging.INFO, "  ".join(filter(None, parts)))

    def _is_best(self, trial: FrozenTrial) -> bool:
        is_complete = trial.state is TrialState.COMPLETE
        return is_complete and trial.number in {best.number for best in best_trials(self.study)}

    def on_interrupt(self, interrupts: int) -> None:
        """Show what Ctrl-C does.

        A signal handler calls this. It must not print over the live table, whose own thread shows the line
        within a second and keeps it there.
        """
        self.interrupts = interrupts
        if not self.live.is_started:
            print_from_signal_handler(_interrupt_message(interrupts))

    def _refresh(self) -> None:
        while not self._closed.wait(REFRESH):
            with suppress(StorageInternalError):  # a database that is away for a moment
                self.live.update(self._render(), refresh=True)

    def _render(self) -> RenderableType:
        trials = self.study.get_trials(deepcopy=False)
        running = [trial for trial in trials if trial.state is TrialState.RUNNING]
        finished = sum(trial.state in FINISHED for trial in trials)
        width = get_console().width
        progress = Table.grid(padding=(0, 1))
        bar = ProgressBar(self.n_trials, finished, min(40, width // 3))
        progress.add_row(bar, self._format_counts(trials, finished))
        at_a_time = self.n_jobs or len(running)
        left = self._time_left(trials, self.n_trials - finished, at_a_time)
        texts = (" · ".join(filter(None, (_format_best(self.study), left))), self.workers)
        lines = [Text(text) for text in texts if text]
        if self.interrupts:
            lines.append(Text(_interrupt_message(self.interrupts), style="yellow"))
        table = Group("", _trial_table(running, width)) if running else ""
        return Group(table, "", progress, *lines)

    def _format_counts(self, trials: list[FrozenTrial], finished: int) -> str:
        counts = _count_states(trials)
        pruned, failed = counts["pruned"], counts["fail"]
        parts = [
            f"{finished}/{self.n_trials} trials",
            f"{pruned} pruned" if pruned else "",
            f"{failed} failed" if failed else "",
        ]
        return " · ".join(filter(None, parts))

    def _time_left(self, trials: list[FrozenTrial], remaining: int, at_a_time: int) -> str:
        times = [
            trial.duration
            for trial in trials
            if trial.duration and trial.state is not TrialState.FAIL
        ]
        if not times or not at_a_time:
            return ""
        rounds = max(remaining, 0) / min(at_a_time, max(remaining, 1))
        return f"about {format_duration(sum(times, timedelta()) / len(times) * rounds)} left"


def _earlier_run(trial: FrozenTrial) -> str:
    """The equal run whose results a trial has, or could have had; the trial with whose run it went on."""
    words = {
        REUSED: "reused",
        EQUAL: "equal to",
        NOT_RESUMED: "anew:",
        GOES_ON_WITH: "went on with trial",
    }
    name = next((one for one in words if one in trial.user_attrs), None)
    if name is None:
        return ""
    value = str(trial.user_attrs[name])
    return f"{words[name]} {value[:8] if name in (REUSED, EQUAL) else value}"


def _count_states(trials: list[FrozenTrial]) -> Counter[str]:
    counted = (trial for trial in trials if trial.user_attrs.get(REASON) != REDUNDANT)
    return Counter(map(_state, counted))


def _state(trial: FrozenTrial) -> str:
    return INTERRUPTED if was_interrupted(trial) else trial.state.name.lower()


def format_states(study: optuna.Study) -> str:
    """Return how many trials are in each state: `10 complete, 2 pruned`"""
    counts = _count_states(study.get_trials(deepcopy=False))
    return ", ".join(f"{count} {STATE_NAMES.get(name, name)}" for name, count in counts.items())


def _format_best(study: optuna.Study) -> str:
    match best_trials(study):
        case []:
            return ""
        case [best] if len(study.directions) == 1:
            value, settings = _format_values(best), format_settings(best.params)
            return f"best {value} (trial {best.number}: {settings})"
        case front:
            return f"{len(front)} trials on the Pareto front"


def _interrupt_message(interrupts: int) -> str:
    if interrupts > 1:
        return "stopping the running trials now"
    return "stopping after the running trials; Ctrl-C again stops now"


def _trial_table(trials: list[FrozenTrial], width: int) -> Table:
    """One column for each parameter, where the terminal is wide enough for that."""
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    host = _host_column(trials)
    table = Table(box=None, header_style="dim", padding=(0, 3, 0, 0))
    for column in ("trial", *host, *names, "value", "", "time"):
        table.add_column(escape(column), no_wrap=True)
    for trial in trials:
        params = (
            format_settings({name: trial.params.get(name, "")}).split("=", 1)[1] for name in names
        )
        reported = sparkline(trial.intermediate_values)
        start = [str(trial.number), *([host_of(trial)] if host else []), *params]
        table.add_row(*map(escape, [*start, _format_values(trial), reported, _format_age(trial)]))
    return table if _natural_width(table) <= width else _narrow_table(trials)


def _narrow_table(trials: list[FrozenTrial]) -> Table:
    """All parameters in one column, cut to the terminal."""
    host = _host_column(trials)
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), expand=True)
    for column in ("trial", *host, "value", "time"):
        table.add_column(column, no_wrap=True)
    table.add_column("settings", no_wrap=True, overflow="ellipsis", ratio=1)
    for trial in trials:
        start = [str(trial.number), *([host_of(trial)] if host else [])]
        end = [_format_values(trial), _format_age(trial), format_settings(trial.params)]
        table.add_row(*map(escape, [*start, *end]))
    return table


def _host_column(trials: list[FrozenTrial]) -> list[str]:
    """Its name, where trials run on other machines, too."""
    return ["host"] if {host_of(trial) for trial in trials} - {"", socket.gethostname()} else []


def _natural_width(table: Table) -> int:
    console = get_console()
    return Measurement.get(console, console.options.update(width=1000), table).maximum


def _format_age(trial: FrozenTrial) -> str:
    return format_duration(datetime.now() - trial.datetime_start if trial.datetime_start else None)


def _format_values(trial: FrozenTrial) -> str:
    """The values of a trial that has ended, or else the last one that it has reported."""
    reported = trial.intermediate_values
    last = [reported[max(reported)]] if reported else []
    return ", ".join(map(format_metric, trial.values or last))


def sparkline(values: dict[int, float]) -> str:
    """Draw the values that a trial has reported, by step, as a line of blocks: ▁▅▇█"""
    heights = [values[step] for step in sorted(values)][-SPARKLINE:]
    if len(heights) < 2 or not all(abs(height) < float("inf") for height in heights):
        return ""
    low, span = min(heights), max(heights) - min(heights) or 1.0
    return "".join(BLOCKS[round((height - low) / span * (len(BLOCKS) - 1))] for height in heights)


def print_study_summary(study: optuna.Study, experiment: Experiment, overrides: list[str]) -> None:
    """Print the best trials of a study, and the commands that may follow.

    Args:
        overrides: the overrides of Hydra; the commands repeat `hydra.sweeper.storage`.
    """
    counts = _count_states(study.get_trials(deepcopy=False))
    line = f"\n[bold]{study.study_name}[/]: {format_states(study)}"
    get_console().print(line, highlight=False, soft_wrap=True)
    equal = sum(EQUAL in trial.user_attrs for trial in study.get_trials(deepcopy=False))
    if equal:
        log.info("%d of them equal to finished runs: reuse=true takes the results of those", equal)
    table = _summary_table(study)
    if table.rows:
        get_console().print(table)
    storage = [one for one in overrides if one.startswith("hydra.sweeper.storage=")]
    variable = [f"OPTUNA_STORAGE={shlex.quote(one.partition('=')[2])}" for one in storage]
    resume = [f"resume_study={study.study_name}", *map(shlex.quote, storage), *_more_trials(study)]
    print_hints(
        {
            "browse": "bash scripts/mlflow_ui.sh",
            "study": " ".join([*variable, "bash scripts/optuna_dashboard.sh"]),
            **({"reload": reload_command(study.study_name)} if counts["complete"] else {}),
            "resume": " ".join([run_command(experiment), "-m", *resume]),
        }
    )


def _summary_table(study: optuna.Study) -> Table:
    table = Table("trial", "value", "parameters", "run")
    if len(study.directions) > 1:
        table.title, table.title_justify = "the Pareto front", "left"
    for trial in leading_trials(study, SUMMARY_TRIALS):
        values = ", ".join(map(format_metric, trial.values))
        run_id = trial.user_attrs.get("run_id", "")
        table.add_row(str(trial.number), values, escape(format_settings(trial.params)), run_id[:8])
    return table


def leading_trials(study: optuna.Study, number: int) -> list[FrozenTrial]:
    """Return the few best trials, or the whole Pareto front."""
    if len(study.directions) > 1:
        return study.best_trials
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    is_maximized = study.direction.name == "MAXIMIZE"
    ranked = sorted(complete, key=lambda trial: trial.value or 0.0, reverse=is_maximized)
    return ranked[:number]


def _more_trials(study: optuna.Study) -> list[str]:
    """A study that has all its trials resumes only with a larger number; a grid has no more points."""
    n_trials = n_trials_of(study)
    if study.user_attrs[GRID] or count_trials(study, *FINISHED) < n_trials:
        return []
    return [f"hydra.sweeper.n_trials={2 * n_trials}"]
