"""The page that scripts/mlflow_ui.sh opens in MLflow: the newest run's experiment, as a saved view.

    python -m src.utils.lab.mlflow_ui     writes the views, and prints the address of the page after the port

Without a view, MLflow's table shows no metric and no param, and its charts begin with system metrics. A
view is a tag of the experiment, as MLflow's page writes it when one is saved there under «Views».
"""

import json
from collections.abc import Sequence
from typing import Any

from src.utils.errors import exit_on_user_error
from src.utils.lab.runs import varying_params
from src.utils.store.mlflow import open_store
from src.utils.store.objective import find_objective, result_metrics
from src.utils.store.reader import open_reader
from src.utils.store.record import RunRecord
from src.utils.store.reference import RECENT_RUNS, list_model_runs

VIEW = "results"  # the key of the view in the address
# Tags of an experiment.
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
PRIMARY_METRIC_TAG = "mlflow.experiment.primaryMetric.name"
KIND = {"mlflow.experimentKind": "custom_model_development"}  # else a page on language models
# Columns of the table.
ATTRIBUTES = ("Description", "Dataset")
MOST_METRICS, MOST_PARAMS = 2, 6
WIDTH = 260  # pixels, of a wide column
# MLflow's names of its sections of charts.
MODEL_SECTION, SYSTEM_SECTION = "Model metrics", "System metrics"


def main() -> None:
    """Write the views of all experiments that have runs, and print the page of the newest run's."""
    client, records = open_store(), list_model_runs(open_reader())
    if not records:
        print("#/experiments?workflowType=machine_learning")
        return
    ids = {experiment.name: experiment.experiment_id for experiment in client.search_experiments()}
    for name in {run.experiment for run in records}:
        newest = [run for run in records if run.experiment == name][:RECENT_RUNS]
        for tag, value in _experiment_tags(open_reader().with_values(newest)).items():
            client.set_experiment_tag(ids[name], tag, value)
    newest_id = ids[records[0].experiment]
    print(f"#/experiments/{newest_id}/runs?viewStateShareKey={VIEW}&workflowType=machine_learning")


def _experiment_tags(records: Sequence[RunRecord]) -> dict[str, str]:
    metrics, started = _metrics(records), records[0].started
    time = int(started.timestamp() * 1000) if started else 0
    state = json.dumps(_view_state(metrics, _params(records)))
    view = {"name": "Results", "createdAt": time, "updatedAt": time, "state": state}
    primary = {PRIMARY_METRIC_TAG: metrics[0]} if metrics else {}
    return KIND | {VIEW_TAG: json.dumps(view)} | primary


def _metrics(records: Sequence[RunRecord]) -> list[str]:
    """The objective, the same metric on test data, then the others."""
    known = {name for run in records for name in run.metrics}
    objective = find_objective(records)
    names = dict.fromkeys([*(objective.metrics if objective else []), *result_metrics(known)])
    return [name for name in names if name in known and name != "best_value"]


def _params(records: Sequence[RunRecord]) -> list[str]:
    """Those that vary; if none does, those of the newest run."""
    varied = dict.fromkeys(name for params in varying_params(records).values() for name in params)
    top = [name for name in records[0].settings if "." not in name]
    return [*varied] or top


def _view_state(metrics: list[str], params: list[str]) -> dict[str, Any]:
    """Sort order, columns and charts, in the form that MLflow's page stores."""
    shown = {"metrics": metrics[:MOST_METRICS], "params": params[:MOST_PARAMS]}
    shown["attributes"] = list(ATTRIBUTES)
    columns = [f"{kind}.`{name}`" for kind, names in shown.items() for name in names]
    return {
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": ["attributes.`Run Name`", *columns],
        "columnWidths": {"attributes.`Run Name`": WIDTH, "attributes.`Dataset`": WIDTH},
        "compareRunCharts": [_chart(name) for name in metrics],
        "compareRunSections": [
            _section(MODEL_SECTION, is_open=True),
            _section(SYSTEM_SECTION, is_open=False),
        ],
    }


def _chart(metric: str) -> dict[str, Any]:
    """A bar chart, which MLflow turns into a line for a metric with several values."""
    identity = {"uuid": f"chart-{metric}", "metricSectionId": MODEL_SECTION, "displayName": metric}
    return identity | {"type": "BAR", "isGenerated": True, "deleted": False, "metricKey": metric}


def _section(name: str, is_open: bool) -> dict[str, Any]:
    """A section of charts; `isReordered`: charts of further metrics are added at its end."""
    identity = {"uuid": name, "name": name, "display": is_open, "isReordered": True}
    return identity | {"deleted": False, "isGenerated": True}


if __name__ == "__main__":
    with exit_on_user_error():
        main()
