"""What the pages of MLflow and optuna-dashboard say about a study and its trials, in Markdown.

| page                          | where it is stored                | links to                             |
|-------------------------------|-----------------------------------|--------------------------------------|
| the study's run in MLflow     | its description, after the note   | best trials, plots, optuna-dashboard |
| the study in optuna-dashboard | its note                          | the runs in MLflow                   |
| a trial in optuna-dashboard   | its note                          | its run in MLflow                    |
"""

from collections.abc import Sequence
from html import escape

from src.utils.store.experiment_page import run_page
from src.utils.store.location import is_server, server_page, tracking_uri
from src.utils.store.record import NOTE, REASON, RESULTS, own_note
from src.utils.study.study import EXPERIMENT, RUN_ID
from src.utils.study.trial import trial_name
from src.utils.sweep.live_table import STATE_NAMES, format_states, leading_trials
from src.utils.terminal import format_metric, format_settings, format_value

import optuna
from mlflow.entities import Run as StoredRun
from mlflow.tracking import MlflowClient
from optuna.trial import FrozenTrial, TrialState

TOP = 10  # trials in the table
MAX_PARAMS = 8  # in the table
MAX_LENGTH = 8000  # of a tag in MLflow
SPACE = "&emsp;"  # between the columns of the table, which MLflow draws without lines
# optuna_dashboard.save_note writes the same, and takes a second to import.
NOTE_LENGTH = 2045  # of one attribute
# Where scripts/mlflow_ui.sh and scripts/optuna_dashboard.sh serve by default.
MLFLOW_PAGE, DASHBOARD = "http://127.0.0.1:5000", "http://127.0.0.1:8080/dashboard"


def describe_study(client: MlflowClient, study: optuna.Study, run_id: str) -> None:
    """Write the results of a study into the description of its run, after the user's own note.

    The page of the run shows the description at its top, with links and plots.
    """
    run = client.get_run(run_id)
    note = own_note(run.data.tags.get(NOTE, ""))
    for top in (TOP, 3, 1):
        text = f"{note}{RESULTS}{_results(study, run, top)}"
        if len(text) <= MAX_LENGTH:
            client.set_tag(run_id, NOTE, text)
            return


def _results(study: optuna.Study, run: StoredRun, top: int) -> str:
    trials = leading_trials(study, top)[:top]  # of a Pareto front not all
    experiment, run_id = run.info.experiment_id, run.info.run_id
    drawn = "optimization_history" if len(study.directions) == 1 else "pareto_front"
    plot = f"get-artifact?path=plots%2F{drawn}.png&run_uuid={run_id}"
    plots = run_page(experiment, run_id, "artifacts/plots/study.html")
    return "\n\n".join(
        [
            _headline(study, run, trials),
            f"Trials: {format_states(study)}",
            _table(study, run, trials),
            f"[All plots]({plots}) · optuna-dashboard: `bash scripts/optuna_dashboard.sh`, then "
            f"[this study]({DASHBOARD}/studies/{study._study_id})",
            f"![{drawn}]({plot})",
        ]
    )


def _headline(study: optuna.Study, run: StoredRun, trials: Sequence[FrozenTrial]) -> str:
    if len(study.directions) > 1:
        return "The Pareto front:"
    best, (metric,) = trials[0], study.metric_names or ["objective"]
    settings = f" with `{format_settings(best.params)}`" if best.params else ""
    link = f"[trial {best.number}]({_page(run, best)})"
    return f"Best {metric} {format_metric(best.value)}{settings} in {link}"


def _table(study: optuna.Study, run: StoredRun, trials: Sequence[FrozenTrial]) -> str:
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))[:MAX_PARAMS]
    metrics = study.metric_names or [f"objective {n}" for n in range(len(study.directions))]
    rows = [["trial", *metrics, *(name.lstrip("+") for name in names)]]
    for trial in trials:
        values = map(format_metric, trial.values)
        params = (_cell(format_value(str(trial.params.get(name, "")))) for name in names)
        rows.append([f"[{trial.number}]({_page(run, trial)})", *values, *params])
    lines = [f"| {f'{SPACE} | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def _cell(text: str) -> str:
    """Text of a cell, in which a bar would end it."""
    return escape(text, quote=False).replace("|", "&#124;")


def _page(study_run: StoredRun, trial: FrozenTrial) -> str:
    """The page of a trial's run; its MLflow experiment is that of the study's run."""
    return run_page(study_run.info.experiment_id, trial.user_attrs.get(RUN_ID, ""))


def save_study_note(study: optuna.Study, run: StoredRun) -> None:
    """Save the note of a study for optuna-dashboard."""
    experiment = study.user_attrs[EXPERIMENT]
    page = run_page(run.info.experiment_id, run.info.run_id)
    paragraphs = [
        f"**{experiment}** {own_note(run.data.tags.get(NOTE, ''))}".strip(),
        _link("The study in MLflow", page),
        _best(study, run),
        f"`{run.data.tags.get('command', '')}`",
    ]
    _save_note(study, None, "\n\n".join(filter(None, paragraphs)))


def _best(study: optuna.Study, run: StoredRun) -> str:
    lines = []
    for trial in leading_trials(study, TOP)[:TOP]:
        values = ", ".join(map(format_metric, trial.values))
        url = f"{_server()}/{_page(run, trial)}"
        lines.append(
            f"- [trial {trial.number}]({url}): {values} with {format_settings(trial.params)}"
        )
    return "\n".join(lines)


def save_trial_note(study: optuna.Study, trial: FrozenTrial, run: StoredRun) -> None:
    """Save the note of a trial that has ended for optuna-dashboard: what it is, its value, its run.

    A note that someone has written already is kept.
    """
    values = ", ".join(map(format_metric, trial.values or []))
    outcome = trial.user_attrs.get(REASON, "") if trial.state is TrialState.FAIL else values
    page, state = run_page(run.info.experiment_id, run.info.run_id), trial.state.name.lower()
    lines = [
        f"**{trial_name(trial.number, trial.params)}**",
        f"{STATE_NAMES.get(state, state)} {outcome}".strip(),
        _link("Its run in MLflow", page),
        f"run id `{run.info.run_id}`: `lab show {run.info.run_id[:8]}`",
    ]
    _save_note(study, trial._trial_id, "\n\n".join(lines), keep=True)


def _link(text: str, page: str) -> str:
    needs_ui = "" if is_server(tracking_uri()) else ", while `bash scripts/mlflow_ui.sh` runs"
    return f"[{text}]({_server()}/{page}){needs_ui}"


def _server() -> str:
    return server_page() if is_server(tracking_uri()) else MLFLOW_PAGE


def _save_note(study: optuna.Study, trial_id: int | None, text: str, keep: bool = False) -> None:
    """Save the note of a study, or of one of its trials; both are attributes of the study."""
    prefix = "dashboard:" if trial_id is None else f"dashboard:{trial_id}:"
    storage, study_id = study._storage, study._study_id
    old = storage.get_study_system_attrs(study_id)
    version = old.get(f"{prefix}note_ver", 0)
    if keep and version:
        return
    parts = [text[start : start + NOTE_LENGTH] for start in range(0, len(text), NOTE_LENGTH)]
    attributes = dict.fromkeys((name for name in old if name.startswith(f"{prefix}note_str:")), "")
    attributes |= {f"{prefix}note_str:{number}": part for number, part in enumerate(parts)}
    for name, value in (attributes | {f"{prefix}note_ver": version + 1}).items():
        storage.set_study_system_attr(study_id, name, value)
