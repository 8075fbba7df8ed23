"""What optuna-dashboard shows of a study beside its trials: a note, with links to the runs in MLflow."""

from src.utils.execution.wording import figure, spelled
from src.utils.store.address import is_server, tracking_uri
from src.utils.sweep.study import EXPERIMENT

import optuna
from mlflow.entities import Run as StoredRun
from optuna.trial import FrozenTrial

# optuna_dashboard.save_note writes the same, and takes a second to import.
VERSION, TEXT, LONGEST = "dashboard:note_ver", "dashboard:note_str:", 2045
LOCAL = "http://127.0.0.1:5000"  # where scripts/mlflow_ui.sh serves by default


def save_note(study: optuna.Study, run: StoredRun, best: list[FrozenTrial]) -> None:
    """Write the note anew, in Markdown."""
    text = _note(study, run, best)
    attributes = {
        f"{TEXT}{number}": text[start : start + LONGEST]
        for number, start in enumerate(range(0, len(text), LONGEST))
    }
    storage, study_id = study._storage, study._study_id
    version = storage.get_study_system_attrs(study_id).get(VERSION, 0) + 1
    for name, value in ({VERSION: version} | attributes).items():
        storage.set_study_system_attr(study_id, name, value)


def _note(study: optuna.Study, run: StoredRun, best: list[FrozenTrial]) -> str:
    lines = [
        f"**{study.user_attrs[EXPERIMENT]}** {run.data.tags.get('mlflow.note.content', '')}",
        f"[The study in MLflow]({page(run, run.info.run_id)})"
        + ("" if is_server(tracking_uri()) else ", while `bash scripts/mlflow_ui.sh` runs"),
        *(f"- {_linked(run, one)}" for one in best),
        f"`{run.data.tags.get('command', '')}`",
    ]
    return "\n\n".join(lines)


def _linked(run: StoredRun, trial: FrozenTrial) -> str:
    values = ", ".join(map(figure, trial.values))
    link = f"[trial {trial.number}]({page(run, trial.user_attrs.get('run_id', ''))})"
    return f"{link}: {values} with {spelled(trial.params)}"


def page(run: StoredRun, run_id: str) -> str:
    """The address of a run of the same MLflow experiment."""
    server = tracking_uri() if is_server(tracking_uri()) else LOCAL
    place = f"#/experiments/{run.info.experiment_id}/runs/{run_id}?workflowType=machine_learning"
    return f"{server.rstrip('/')}/{place}"
