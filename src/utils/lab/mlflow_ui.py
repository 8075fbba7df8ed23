"""The view of each experiment in MLflow: objective, results, the settings that differ, notes.

    python -m src.utils.lab.mlflow_ui     saves the views on an MLflow server; prints the newest run's page

Without a view, MLflow's table shows no metric and no param, and its charts begin with system metrics.
`src/utils/lab/mlflow_server.py` gives the same views to the browser.
"""

from collections.abc import Sequence
from threading import Lock

from src.utils.errors import exit_on_user_error
from src.utils.lab.runs import varying_params, without_derived
from src.utils.store.experiment_page import (
    EXPERIMENTS_PAGE,
    VIEW,
    View,
    make_view,
    runs_page,
    view_tags,
)
from src.utils.store.location import server_page
from src.utils.store.mlflow import open_store
from src.utils.store.objective import SCORES, SPREAD, find_objective, result_metrics
from src.utils.store.reader import RunReader, open_reader
from src.utils.store.record import RunRecord
from src.utils.store.reference import RECENT_RUNS, list_model_runs

# Of a server's own page; scripts/mlflow_ui.sh sees to it on this machine.
HINT = "(press «Model training» at the top left once: the browser remembers it, whichever link is followed)"
MOST_SHOWN = 12  # metrics that have a chart from the beginning


class Views:
    """The views of all experiments that have runs, computed again where runs have changed."""

    def __init__(self) -> None:
        self.client = open_store()
        self.newest = ""  # the id of the newest run's experiment
        self._known: dict[str, tuple[object, View]] = {}  # by id: the runs, and their view
        self._lock = Lock()  # the page may be opened twice at once

    @property
    def by_experiment(self) -> dict[str, View]:
        """The views by the id of their experiment."""
        return {number: view for number, (_, view) in self._known.items()}

    def refresh(self) -> None:
        """Compute the views of experiments whose runs have changed, and save them in the store, too."""
        with self._lock:
            self._refresh(open_reader())

    def _refresh(self, reader: RunReader) -> None:
        experiments = {one.name: one.experiment_id for one in self.client.search_experiments()}
        runs: dict[str, list[RunRecord]] = {}
        for run in reader.runs():
            runs.setdefault(run.experiment, []).append(run)
        for name in runs.keys() & experiments.keys():
            self._update(reader, experiments[name], runs[name][:RECENT_RUNS])
        models = [run for run in list_model_runs(reader) if run.experiment in experiments]
        self.newest = experiments[models[0].experiment] if models else ""

    def _update(self, reader: RunReader, number: str, runs: Sequence[RunRecord]) -> None:
        old = self._known.get(number)
        key = [(run.id, run.name, run.ended) for run in runs]
        if old is not None and old[0] == key and not any(run.status == "RUNNING" for run in runs):
            return
        records = reader.with_values(runs)
        metrics, started = _metrics(records), records[0].started
        has_groups = any(run.is_group for run in records)
        view = make_view(metrics, _params(records), 3 if has_groups else 2)
        if old is None or old[1] != view:
            time = int(started.timestamp() * 1000) if started else 0
            for name, value in view_tags(view, metrics, time).items():
                self.client.set_experiment_tag(number, name, value)
        self._known[number] = key, view


def main() -> None:
    """Save the views of all experiments that have runs, and print the page of the newest run's."""
    views = Views()
    views.refresh()
    page = runs_page(views.newest, VIEW) if views.newest else EXPERIMENTS_PAGE
    print(f"{server_page()}/{page}")
    print(HINT)


def _metrics(records: Sequence[RunRecord]) -> list[str]:
    """The objective, its spread in groups, scores, the same metric on test data, then the others."""
    known = {name for run in records for name in run.metrics}
    objective = find_objective(records)
    first = objective.metrics if objective else []
    spreads = [f"{name}{SPREAD}" for name in first[:1]]
    names = dict.fromkeys([*first[:1], *spreads, *SCORES, *first, *result_metrics(known)])
    return [name for name in names if name in known and name != "best_value"][:MOST_SHOWN]


def _params(records: Sequence[RunRecord]) -> list[str]:
    """Those that vary, except among the members of a group; if none does, those of the newest run."""
    records = [run for run in records if not run.is_member] or records
    varied = dict.fromkeys(
        name for params in varying_params(records).values() for name in without_derived(params)
    )
    top = [name for name in records[0].settings if "." not in name]
    return [*varied] or top


if __name__ == "__main__":
    with exit_on_user_error():
        main()
