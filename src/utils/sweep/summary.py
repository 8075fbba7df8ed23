"""What a person sees when a search is over: its best trials, and how to go on."""

import shlex
from collections import Counter

from src.utils.execution import commands
from src.utils.execution.wording import figure, spelled
from src.utils.layout import Experiment
from src.utils.sweep.study import FINISHED, GRID, REASON, SURPLUS, count, total

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich import get_console
from rich.markup import escape
from rich.table import Table

SHOWN = 5  # trials
STATES = {"fail": "failed"}


def say_study(study: optuna.Study, here: Experiment, typed: list[str]) -> None:
    """Print what a search has found, and how to go on; `typed` tells where it is stored, if anything."""
    trials = study.get_trials(deepcopy=False)
    states = Counter(t.state.name.lower() for t in trials if t.user_attrs.get(REASON) != SURPLUS)
    counts = ", ".join(f"{number} {STATES.get(state, state)}" for state, number in states.items())
    get_console().print(f"\n[bold]{study.study_name}[/]: {counts}", highlight=False, soft_wrap=True)
    table = Table("trial", "value", "parameters", "run")
    if len(study.directions) > 1:
        table.title, table.title_justify = "the Pareto front", "left"
    for trial in _shown(study):
        values = ", ".join(map(figure, trial.values))
        run_id = trial.user_attrs.get("run_id", "")
        table.add_row(str(trial.number), values, escape(spelled(trial.params)), run_id[:8])
    if table.rows:
        get_console().print(table)
    stored = [one for one in typed if one.startswith("hydra.sweeper.storage=")]
    place = [f"OPTUNA_STORAGE={shlex.quote(one.partition('=')[2])}" for one in stored]
    again = [commands.run(here), "-m", f"resume={study.study_name}", *map(shlex.quote, stored)]
    commands.say(
        {
            "browse": "bash scripts/mlflow_ui.sh",
            "study": " ".join([*place, "bash scripts/optuna_dashboard.sh"]),
            **({"reload": commands.reload(study.study_name)} if states["complete"] else {}),
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
