"""The page of MLflow that scripts/mlflow_ui.sh opens: the newest run's experiment, as a saved view.

    python -m src.utils.lab.mlflow_ui     writes the views, and prints the address of the page after the port

Without one, MLflow's table shows no metric and no setting, and its charts begin with bookkeeping. A
view is a tag of the experiment, as MLflow's page writes it when one is saved there under «Views».
"""

import json
from collections.abc import Sequence
from typing import Any

from src.utils.errors import plain_errors
from src.utils.lab.runs import NOT_CHANGES, differences
from src.utils.store.mlflow import open_store
from src.utils.store.objective import find_objective, result_metrics
from src.utils.store.reader import RunRecord, open_reader
from src.utils.store.reference import RECENT_RUNS, list_model_runs

VIEW = "results"
TAG = f"mlflow.sharedViewState.{VIEW}"
KIND = {"mlflow.experimentKind": "custom_model_development"}  # else a page on language models
PRIMARY = "mlflow.experiment.primaryMetric.name"
ATTRIBUTES = ("Description", "Dataset")
MOST_METRICS, MOST_SETTINGS = 2, 6  # columns
WIDE = 260  # pixels
MODEL, SYSTEM = "Model metrics", "System metrics"  # MLflow's names of its sections of charts


def main() -> None:
    """Write the views of all experiments with runs; print the page of the newest run's."""
    client, records = open_store(), list_model_runs(open_reader())
    if not records:
        print("#/experiments?workflowType=machine_learning")
        return
    numbers = {one.name: one.experiment_id for one in client.search_experiments()}
    for name in {one.experiment for one in records}:
        newest = [one for one in records if one.experiment == name][:RECENT_RUNS]
        for tag, value in _tags(open_reader().with_values(newest)).items():
            client.set_experiment_tag(numbers[name], tag, value)
    number = numbers[records[0].experiment]
    print(f"#/experiments/{number}/runs?viewStateShareKey={VIEW}&workflowType=machine_learning")


def _tags(records: Sequence[RunRecord]) -> dict[str, str]:
    metrics, began = _metrics(records), records[0].started
    moment = int(began.timestamp() * 1000) if began else 0
    state = json.dumps(_state(metrics, _settings(records)))
    view = {"name": "Results", "createdAt": moment, "updatedAt": moment, "state": state}
    return KIND | {TAG: json.dumps(view)} | ({PRIMARY: metrics[0]} if metrics else {})


def _metrics(records: Sequence[RunRecord]) -> list[str]:
    """What the runs are after, the same on test data, and then the rest."""
    known, aim = {name for one in records for name in one.metrics}, find_objective(records)
    names = dict.fromkeys([*(aim.metrics if aim else []), *result_metrics(known)])
    return [name for name in names if name in known and name != "best_value"]


def _settings(records: Sequence[RunRecord]) -> list[str]:
    """Those that differ; where none does, the first ones."""
    varied = dict.fromkeys(name for one in differences(records).values() for name in one)
    top = [one for one in records[0].params if "." not in one and one not in NOT_CHANGES]
    return [*varied] or top


def _state(metrics: list[str], settings: list[str]) -> dict[str, Any]:
    """As MLflow's page keeps it: what is searched for, columns, charts."""
    chosen = {"metrics": metrics[:MOST_METRICS], "params": settings[:MOST_SETTINGS]}
    chosen["attributes"] = list(ATTRIBUTES)
    columns = [f"{kind}.`{key}`" for kind, keys in chosen.items() for key in keys]
    return {
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": ["attributes.`Run Name`", *columns],
        "columnWidths": {"attributes.`Run Name`": WIDE, "attributes.`Dataset`": WIDE},
        "compareRunCharts": [_chart(name) for name in metrics],
        "compareRunSections": [_section(MODEL, opened=True), _section(SYSTEM, opened=False)],
    }


def _chart(metric: str) -> dict[str, Any]:
    """The page makes a line of it where there is more than one value."""
    about = {"uuid": f"chart-{metric}", "metricSectionId": MODEL, "displayName": metric}
    return about | {"type": "BAR", "isGenerated": True, "deleted": False, "metricKey": metric}


def _section(name: str, opened: bool) -> dict[str, Any]:
    """`isReordered`: charts of further metrics are put at its end."""
    about = {"uuid": name, "name": name, "display": opened, "isReordered": True}
    return about | {"deleted": False, "isGenerated": True}


if __name__ == "__main__":
    with plain_errors():
        main()
