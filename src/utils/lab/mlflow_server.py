"""MLflow's page in a browser, opened on the runs; scripts/mlflow_ui.sh starts it.

    python -m src.utils.lab.mlflow_server PORT

It is MLflow's own server with two differences:

- `/` has a script (`mlflow_page.js`) that shows the side on model training and the newest experiment, with
  the columns of its view (`src/utils/lab/mlflow_ui.py`). MLflow itself begins with language models: no tag of
  an experiment changes that, only the local storage of the browser.
- Runs name their objective first: where runs are compared, MLflow draws the first metric, which may be the
  load of the CPU.
"""

import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from src.utils.errors import exit_on_user_error
from src.utils.lab.mlflow_ui import Views
from src.utils.store.experiment_page import EXPERIMENTS_PAGE, runs_page
from src.utils.store.location import DEFAULT_DATABASE, tracking_uri
from src.utils.store.mlflow import open_store
from src.utils.store.objective import Objective, is_resource

log = logging.getLogger(__name__)
SCRIPT = Path(__file__).with_name("mlflow_page.js")
RUNS_ARE_READ = ("/mlflow/runs/search", "/mlflow/runs/get", "/graphql")  # ends of paths
# What is not needed to look at runs: a runner of jobs, an assistant's service, and telemetry.
TURNED_OFF = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


def main() -> None:
    """Serve the store of this repository on a port of this machine, until the process is ended.

    Raises:
        UserError: the MLflow store can't be opened.
    """
    open_store()  # it is created if there is none; its paths are updated if this folder was moved
    os.environ.update(TURNED_OFF)
    import uvicorn  # late, as MLflow's server, which reads the environment when it is imported
    from mlflow.server.constants import ARTIFACT_ROOT_ENV_VAR, BACKEND_STORE_URI_ENV_VAR

    os.environ[BACKEND_STORE_URI_ENV_VAR] = tracking_uri()
    os.environ[ARTIFACT_ROOT_ENV_VAR] = str(DEFAULT_DATABASE.parent)
    from mlflow.server import app as pages  # Flask's; FastAPI's wraps it
    from mlflow.server.fastapi_app import app

    views, index = Views(), (Path(str(pages.static_folder)) / "index.html").read_text()
    pages.view_functions["serve"] = lambda: open_on_runs(index, views)
    pages.after_request(name_objectives_first)
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")


def open_on_runs(index: str, views: Views) -> str:
    """MLflow's index.html with our script before its own."""
    try:
        views.refresh()
    except Exception:  # the runs can be looked at without views; the server's log has the reason
        log.exception("the views could not be updated")
    landing = runs_page(views.newest) if views.newest else EXPERIMENTS_PAGE
    values = {"VIEWS": views.by_experiment, "LANDING": landing}
    constants = "".join(f"const {name} = {json.dumps(value)};\n" for name, value in values.items())
    script = (constants + SCRIPT.read_text()).replace("</", "<\\/")  # a name may hold a tag
    return index.replace("<head>", f"<head><script>{{\n{script}}}</script>", 1)


def name_objectives_first(response: Any) -> Any:
    """Sort the metrics of the runs that MLflow's page reads: the objective, others, the machine's load."""
    from flask import request  # late, as MLflow's server

    if request.path.endswith(RUNS_ARE_READ) and response.is_json:
        answer = response.get_json()
        for run in _runs_in(answer):
            data = run.get("data") or {}
            if data.get("metrics"):
                data["metrics"] = sort_metrics(data["metrics"], data.get("tags") or ())
        response.set_data(json.dumps(answer))
    return response


def _runs_in(answer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The runs in an answer of MLflow's API: of a search, or the one of a page."""
    yield from answer.get("runs") or ()
    page = (answer.get("data") or {}).get("mlflowGetRun") or {}
    yield from filter(None, (answer.get("run"), page.get("run")))


def sort_metrics(
    metrics: Sequence[dict[str, Any]], tags: Iterable[dict[str, str]]
) -> list[dict[str, Any]]:
    """Sort metrics, given as MLflow's API gives them: the objective first, time and hardware last."""
    found = Objective.from_tags({tag["key"]: tag["value"] for tag in tags})
    names = found.stored_in({one["key"]: 0.0 for one in metrics}).metrics if found else []
    places = {name: place for place, name in enumerate(names)}
    return sorted(
        metrics, key=lambda one: (places.get(one["key"], len(names)), is_resource(one["key"]))
    )


if __name__ == "__main__":
    with exit_on_user_error():
        main()
