"""Finding a run by what a person remembers of it: its id, the start of it, or its name."""

from difflib import get_close_matches

from src.utils.errors import UserError
from src.utils.layout import STAGES

from mlflow.entities import Run as StoredRun
from mlflow.tracking import MlflowClient

NEWEST_FIRST = ["attributes.start_time DESC"]


def find_run(client: MlflowClient, reference: str, experiment_name: str | None = None) -> StoredRun:
    """The one run that `reference` (an id, the start of one, or a run name) means."""
    ids = experiment_ids(client, experiment_name)
    for condition in ("run_id = '{}'", "run_name = '{}'", "run_id LIKE '{}%'"):
        runs = client.search_runs(
            ids, "attributes." + condition.format(_plain(reference)), max_results=5
        )
        if len(runs) == 1:
            return runs[0]
        if runs:
            names = ", ".join(f"{run.info.run_id[:8]} ({run.info.run_name})" for run in runs)
            raise UserError(f"{reference!r} means several runs: {names}; give more of the id")
    raise UserError(f"there is no run {reference!r}{_near(client, ids, reference)}")


def newest_run(client: MlflowClient, experiment_name: str) -> StoredRun:
    """The newest finished run of an experiment."""
    ids = experiment_ids(client, experiment_name)
    runs = client.search_runs(
        ids, "attributes.status = 'FINISHED'", order_by=NEWEST_FIRST, max_results=1
    )
    if not runs:
        raise UserError(f"{experiment_name} has no finished run yet")
    return runs[0]


def experiment_ids(client: MlflowClient, name: str | None = None) -> list[str]:
    """The id of the experiment `model/model01` (or `model01`); of all of them without a name."""
    experiments = {one.name: one.experiment_id for one in client.search_experiments()}
    if name is None:
        return list(experiments.values())
    full = [f"{stage}/{name}" for stage in STAGES]
    for candidate in (name, *full):
        if candidate in experiments:
            return [experiments[candidate]]
    near = get_close_matches(name, [*experiments, *(n.split("/")[-1] for n in experiments)], n=1)
    known = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(experiments))}"
    raise UserError(f"there is no experiment {name!r}: {known}")


def _near(client: MlflowClient, ids: list[str], reference: str) -> str:
    runs = client.search_runs(ids, order_by=NEWEST_FIRST, max_results=200)
    names = {
        name: run for run in runs for name in (run.info.run_id[: len(reference)], run.info.run_name)
    }
    near = [names[name] for name in get_close_matches(reference, names, n=3, cutoff=0.5)] or runs[
        :3
    ]
    if not near:
        return ": there are no runs yet"
    listed = ", ".join(f"{run.info.run_id[:8]} ({run.info.run_name})" for run in near)
    return f": the nearest are {listed}"


def _plain(reference: str) -> str:
    """What a search filter can hold: no quotes, no wildcards."""
    if not reference or set(reference) & set("'\"`%\\"):
        raise UserError(f"{reference!r} is no run id, start of one, or run name")
    return reference
