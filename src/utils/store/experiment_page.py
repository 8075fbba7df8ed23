"""The page of an experiment in MLflow: the tags that it reads, and addresses.

| tag of the experiment                   | what MLflow does with it                                        |
|-----------------------------------------|-----------------------------------------------------------------|
| `mlflow.experimentKind`                 | lists it as machine learning, not as one of language models     |
| `mlflow.experiment.primaryMetric.name`  | draws this metric in the first chart                            |
| `mlflow.sharedViewState.results`        | a saved view, «Results»: columns, order and charts              |

A view is opened by `viewStateShareKey=results` in the address.
"""

import json
from collections.abc import Sequence
from typing import Any

KIND = {"mlflow.experimentKind": "custom_model_development"}
PRIMARY_METRIC = "mlflow.experiment.primaryMetric.name"
VIEW = "results"  # the key of the view in the address
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
MODELS = "workflowType=machine_learning"  # in an address; else MLflow's side on language models
EXPERIMENTS_PAGE = f"#/experiments?{MODELS}"
# Columns of the table.
MOST_PARAMS = 6
# Widths in pixels.
WIDTHS = {"Run Name": 300, "Created": 130, "Description": 230, "Dataset": 200}
NUMBER_WIDTH = 100
# MLflow's names of its sections of charts.
MODEL_SECTION, SYSTEM_SECTION = "Model metrics", "System metrics"
View = dict[str, Any]


def run_page(experiment_id: str, run_id: str, tab: str = "") -> str:
    """The page of a run, after the address of the server.

    Args:
        tab: `model-metrics`, `artifacts/plots/study.html` …; the overview without one.
    """
    place = f"{run_id}/{tab}" if tab else run_id
    return f"#/experiments/{experiment_id}/runs/{place}?{MODELS}"


def runs_page(experiment_id: str, view: str = "") -> str:
    """The page of all runs of an experiment, after the address of the server.

    Args:
        view: the key of a saved view; without one, the view that the browser has.
    """
    key = f"viewStateShareKey={view}&" if view else ""
    return f"#/experiments/{experiment_id}/runs?{key}{MODELS}"


def view_tags(view: View, metrics: Sequence[str], time: int) -> dict[str, str]:
    """The tags of an experiment that hold a view.

    Args:
        metrics: the first one is drawn first.
        time: in milliseconds, of the newest run.
    """
    saved = {"name": "Results", "createdAt": time, "updatedAt": time, "state": json.dumps(view)}
    primary = {PRIMARY_METRIC: metrics[0]} if metrics else {}
    return KIND | {VIEW_TAG: json.dumps(saved)} | primary


def make_view(metrics: Sequence[str], params: Sequence[str], n_metrics: int = 2) -> View:
    """Sort order, columns and charts, in the form that MLflow's page stores.

    Args:
        metrics: the objective, then the others, as they are drawn.
        params: as many as fit are shown.
        n_metrics: how many of the metrics have a column.
    """
    columns = [
        *(f"metrics.`{name}`" for name in metrics[:n_metrics]),
        "attributes.`Description`",
        *(f"params.`{name}`" for name in params[:MOST_PARAMS]),
        "attributes.`Dataset`",
    ]
    return {
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": ["attributes.`Run Name`", *columns],
        "columnWidths": dict.fromkeys(columns, NUMBER_WIDTH)
        | {f"attributes.`{name}`": width for name, width in WIDTHS.items()},
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
