"""Groups that are written by hand, for what `lab` makes of them: a store in which nothing has run."""

import statistics
from collections.abc import Mapping

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from test_leaderboard import Store

Scores = Mapping[tuple[int, int], float | None]  # by fold and seed; None: the member has failed


def add_group(
    store: Store,
    name: str,
    scores: Scores,
    metric: str = "val_acc",
    monitor: str = "val_acc max",
    folds: int = 5,
    experiment: str = "model/one",
    digest: str = "",
    params: Mapping[str, str] | None = None,
    **metrics: float,
) -> str:
    """A group with these scores of its members, and its id; the mean is kept if no member has failed.

    Args:
        folds: 1 for a group of seeds alone
        digest: of the data that the members have read
        metrics: further metrics of the group
    """
    number = experiment_number(store, experiment)
    seeds = len({seed for _, seed in scores})
    tags = {"monitor": monitor, "group.members": len(scores), "group.folds": folds}
    params = {"folds": folds, "fold": None, "seeds": seeds, "seed": 0, **(params or {})}
    values = [value for value in scores.values() if value is not None]
    if len(values) == len(scores):
        metrics[metric] = statistics.fmean(values)
        if len(values) > 1:
            metrics[f"{metric}_sd"] = statistics.stdev(values)
    status = "FINISHED" if len(values) == len(scores) else "FAILED"
    group = add(store, number, name, status, tags | {"group.seeds": seeds}, params, metrics)
    for (fold, seed), value in scores.items():
        place = ({"fold": fold} if folds > 1 else {}) | ({"seed": seed} if seeds > 1 else {})
        name = " ".join(f"{key} {at}" for key, at in place.items())
        tags = {"mlflow.parentRunId": group, "group.run_id": group, "monitor": monitor}
        tags |= {"group.seed": seed} | ({"group.fold": fold} if folds > 1 else {})
        params = params | {"seed": seed, "seeds": 1, "fold": fold if folds > 1 else None}
        if value is None:
            add(store, number, name, "FAILED", tags | {"reason": "no memory"}, params, {})
            continue
        member = add(store, number, name, "FINISHED", tags, params, {metric: value})
        if digest:
            data = Dataset("feature/one", digest, "local", "{}")
            context = [InputTag("mlflow.data.context", "input"), InputTag("run_id", "0" * 32)]
            store.client.log_inputs(member, [DatasetInput(data, context)])
    return group


def experiment_number(store: Store, name: str) -> str:
    found = store.client.get_experiment_by_name(name)
    return str(found.experiment_id if found else store.client.create_experiment(name))


def add(
    store: Store,
    experiment: str,
    name: str,
    status: str,
    tags: Mapping[str, object],
    params: Mapping[str, object],
    metrics: Mapping[str, float],
) -> str:
    """A run with these values, a second newer than the one before."""
    store.now += 1000
    run = store.client.create_run(experiment, start_time=store.now, run_name=name).info.run_id
    store.client.log_batch(
        run,
        [Metric(key, value, store.now, 0) for key, value in metrics.items()],
        [Param(key, str(value)) for key, value in params.items()],
        [RunTag(key, str(value)) for key, value in tags.items()],
    )
    store.client.set_terminated(run, status, end_time=store.now + 500)
    return str(run)
