"""The board of a sweep: what runs now, live on a terminal, and a line for each trial that has ended."""

import logging
import shlex
import threading
from collections import Counter
from datetime import datetime, timedelta
from types import TracebackType

from src.utils.paths import Experiment
from src.utils.study.study import (
    FINISHED,
    GRID,
    INTERRUPTED,
    REASON,
    REDUNDANT,
    best_trials,
    count,
    total,
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
BLOCKS = "▁▂▃▄▅▆▇█"
CURVE = 20  # values of a trial that are drawn
SHOWN = 5  # trials
STATES = {"fail": "failed"}


class LiveTable:
    """Reads all it shows from the study, so it also shows what other processes do on it."""

    def __init__(self, study: optuna.Study, n_jobs: int) -> None:
        self.study, self.n_trials, self.n_jobs = study, total(study), n_jobs
        self.live = Live(console=get_console(), auto_refresh=False, transient=True)
        self.interrupts = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "LiveTable":
        total = (
            "every combination once" if self.study.user_attrs[GRID] else "hydra.sweeper.n_trials"
        )
        start = "%s: %d trials (%s), %d at a time"
        log.info(start, self.study.study_name, self.n_trials, total, self.n_jobs)
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
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
            self.live.stop()

    def trial_ended(self, trial: FrozenTrial) -> None:
        """A line for a trial that has ended."""
        reason = trial.user_attrs.get(REASON, INTERRUPTED)
        if reason == REDUNDANT:
            return
        failed = trial.state is TrialState.FAIL
        parts = [
            f"trial {trial.number:<3} {'failed' if failed else trial.state.name.lower():8}",
            reason if failed else _values(trial),
            format_settings(trial.params),
            format_duration(trial.duration),
            "← best so far" if self._leads(trial) else "",
        ]
        log.log(logging.WARNING if failed else logging.INFO, "  ".join(filter(None, parts)))

    def interrupted(self, times: int) -> None:
        """Ctrl-C. This is called in a signal handler, which must not print on the live table: its thread
        shows it within a second, and as long as the sweep goes on."""
        self.interrupts = times
        if not self.live.is_started:
            print_from_signal_handler(_stopping(times))

    def _leads(self, trial: FrozenTrial) -> bool:
        done = trial.state is TrialState.COMPLETE
        return done and trial.number in {one.number for one in best_trials(self.study)}

    def _watch(self) -> None:
        while not self._over.wait(REFRESH):
            self.live.update(self._picture(), refresh=True)

    def _picture(self) -> RenderableType:
        trials = self.study.get_trials(deepcopy=False)
        running = [one for one in trials if one.state is TrialState.RUNNING]
        done = sum(one.state in FINISHED for one in trials)
        progress = Table.grid(padding=(0, 1))
        width = get_console().width
        bar = ProgressBar(self.n_trials, done, min(40, width // 3))
        progress.add_row(bar, self._counts(trials, done))
        best, left = best_so_far(self.study), self._time_left(trials, self.n_trials - done)
        lines = [Text(" · ".join(filter(None, (best, left))))]
        if self.interrupts:
            lines.append(Text(_stopping(self.interrupts), style="yellow"))
        return Group("", _running(running, width), "", progress, *lines)

    def _counts(self, trials: list[FrozenTrial], done: int) -> str:
        counts = Counter(one.state for one in trials if one.user_attrs.get(REASON) != REDUNDANT)
        pruned, failed = counts[TrialState.PRUNED], counts[TrialState.FAIL]
        parts = [
            f"{done}/{self.n_trials} trials",
            f"{pruned} pruned" if pruned else "",
            f"{failed} failed" if failed else "",
        ]
        return " · ".join(filter(None, parts))

    def _time_left(self, trials: list[FrozenTrial], left: int) -> str:
        times = [
            one.duration for one in trials if one.duration and one.state is not TrialState.FAIL
        ]
        if not times:
            return ""
        rounds = max(left, 0) / min(self.n_jobs, max(left, 1))
        return f"about {format_duration(sum(times, timedelta()) / len(times) * rounds)} left"


def best_so_far(study: optuna.Study) -> str:
    """In a few words."""
    match best_trials(study):
        case []:
            return ""
        case [best] if len(study.directions) == 1:
            return f"best {_values(best)} (trial {best.number}: {format_settings(best.params)})"
        case front:
            return f"{len(front)} trials on the Pareto front"


def _stopping(interrupts: int) -> str:
    if interrupts > 1:
        return "stopping the running trials now"
    return "stopping after the running trials; Ctrl-C again stops now"


def _running(trials: list[FrozenTrial], width: int) -> Table:
    """A column a setting, where the screen is wide enough; else the settings are one column, cut."""
    names = list(dict.fromkeys(name for one in trials for name in one.params))
    table = Table(box=None, header_style="dim", padding=(0, 3, 0, 0))
    for column in ("trial", *names, "value", "", "time"):
        table.add_column(escape(column), no_wrap=True)
    for one in trials:
        params = (
            format_settings({name: one.params.get(name, "")}).split("=", 1)[1] for name in names
        )
        cells = (str(one.number), *params, _values(one), curve(one.intermediate_values), _time(one))
        table.add_row(*map(escape, cells))
    return table if _width(table) <= width else _narrow(trials)


def _narrow(trials: list[FrozenTrial]) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), expand=True)
    for column in ("trial", "value", "time"):
        table.add_column(column, no_wrap=True)
    table.add_column("settings", no_wrap=True, overflow="ellipsis", ratio=1)
    for one in trials:
        cells = (str(one.number), _values(one), _time(one), format_settings(one.params))
        table.add_row(*map(escape, cells))
    return table


def _width(table: Table) -> int:
    """How wide it would like to be."""
    console = get_console()
    return Measurement.get(console, console.options.update(width=1000), table).maximum


def _time(trial: FrozenTrial) -> str:
    return format_duration(datetime.now() - trial.datetime_start if trial.datetime_start else None)


def _values(trial: FrozenTrial) -> str:
    """Of a trial that has ended, or the last one it has reported."""
    reported = trial.intermediate_values
    last = [reported[max(reported)]] if reported else []
    return ", ".join(map(format_metric, trial.values or last))


def curve(values: dict[int, float]) -> str:
    """What was reported, as a line of blocks: ▁▅▇█"""
    heights = [values[step] for step in sorted(values)][-CURVE:]
    if len(heights) < 2 or not all(abs(one) < float("inf") for one in heights):
        return ""
    low, span = min(heights), max(heights) - min(heights) or 1.0
    return "".join(BLOCKS[round((one - low) / span * (len(BLOCKS) - 1))] for one in heights)


def print_study_summary(study: optuna.Study, experiment: Experiment, typed: list[str]) -> None:
    """Print what a search has found, and how to go on; `typed` tells where it is stored, if anything."""
    trials = study.get_trials(deepcopy=False)
    states = Counter(t.state.name.lower() for t in trials if t.user_attrs.get(REASON) != REDUNDANT)
    counts = ", ".join(f"{number} {STATES.get(state, state)}" for state, number in states.items())
    get_console().print(f"\n[bold]{study.study_name}[/]: {counts}", highlight=False, soft_wrap=True)
    table = Table("trial", "value", "parameters", "run")
    if len(study.directions) > 1:
        table.title, table.title_justify = "the Pareto front", "left"
    for trial in _shown(study):
        values = ", ".join(map(format_metric, trial.values))
        run_id = trial.user_attrs.get("run_id", "")
        table.add_row(str(trial.number), values, escape(format_settings(trial.params)), run_id[:8])
    if table.rows:
        get_console().print(table)
    stored = [one for one in typed if one.startswith("hydra.sweeper.storage=")]
    place = [f"OPTUNA_STORAGE={shlex.quote(one.partition('=')[2])}" for one in stored]
    again = [
        run_command(experiment),
        "-m",
        f"resume_study={study.study_name}",
        *map(shlex.quote, stored),
    ]
    print_hints(
        {
            "browse": "bash scripts/mlflow_ui.sh",
            "study": " ".join([*place, "bash scripts/optuna_dashboard.sh"]),
            **({"reload": reload_command(study.study_name)} if states["complete"] else {}),
            "go on": " ".join([*again, *_more(study)]),
        }
    )


def _shown(study: optuna.Study) -> list[FrozenTrial]:
    """The best few trials, or the whole Pareto front."""
    if len(study.directions) > 1:
        return study.best_trials
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    upwards = study.direction.name == "MAXIMIZE"
    return sorted(done, key=lambda one: one.value or 0.0, reverse=upwards)[:SHOWN]


def _more(study: optuna.Study) -> list[str]:
    """A study that has all its trials goes on only with a new total; a grid has no more."""
    if study.user_attrs[GRID] or count(study, *FINISHED) < total(study):
        return []
    return [f"hydra.sweeper.n_trials={2 * total(study)}"]


# MERGED sweep/summary: What a person sees when a search is over: its best trials, and how to go on.
