"""Finding a run by what a person remembers of it.

3f2a1b2c…          its id, or the start of one
brave-frog-12      its name; a study's name means the run of the study
latest, best       the newest run, the best finished one; of one experiment: model01/best
<study>/best       the best trial of a study, and <study>/7 its trial 7
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING

from src.utils.errors import UserError
from src.utils.paths import STAGES
from src.utils.store.objective import Objective, find_objective
from src.utils.store.reader import RunReader, RunRecord, open_reader

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun
    from mlflow.tracking import MlflowClient

NEWEST, BEST = "latest", "best"
SHOWN = 5  # of several runs that a reference may mean
CANDIDATES = 100  # of the newest runs, those that tell what an experiment is after


def find(
    reference: str, experiment: str | None = None, reader: RunReader | None = None
) -> RunRecord:
    """The one run that `reference` means, with all its values."""
    reader = reader or open_reader()
    (record,) = reader.filled([_find(reader, reference, experiment)])
    return record


def find_run(
    client: "MlflowClient", reference: str, experiment_name: str | None = None
) -> "StoredRun":
    """The same as MLflow has it."""
    return client.get_run(find(reference, experiment_name).id)


def newest_run(client: "MlflowClient", experiment_name: str) -> "StoredRun":
    """The newest finished run of an experiment."""
    for record in runs_of(open_reader(), experiment_name):
        if record.status == "FINISHED":
            return client.get_run(record.id)
    raise UserError(f"{experiment_name} has no finished run yet")


def runs_of(reader: RunReader, experiment: str | None = None) -> list[RunRecord]:
    """The runs of an experiment (`model/model01`, `model01`) or a stage, the newest first."""
    records = reader.headers()
    if experiment is None:
        return records
    names = _experiments(records, experiment)
    return [record for record in records if record.experiment in names]


def models(reader: RunReader) -> list[RunRecord]:
    """The runs of all models, the newest first; where there are none, all runs there are."""
    records = reader.headers()
    return [record for record in records if record.experiment.startswith("model/")] or records


def trials_of(reader: RunReader, study: RunRecord) -> list[RunRecord]:
    """The runs of a study's trials, by number, with all their values."""
    parents = reader.column("tags", "mlflow.parentRunId")
    children = [record for record in reader.headers() if parents.get(record.id) == study.id]
    return sorted(reader.filled(children), key=lambda one: int(one.tags.get("optuna.trial", -1)))


def best_of(reader: RunReader, records: list[RunRecord], among: str) -> RunRecord:
    """The best of some runs, by the metric they were trained for."""
    aim = objective_of(reader, records)
    if aim is not None:
        values = reader.column("metrics", aim.metric)
        ranked = sorted(records, key=lambda one: aim.rank(values.get(one.id)))
        for start in range(0, len(ranked), CANDIDATES):  # most often the first ones have it
            best = aim.best(reader.filled(ranked[start : start + CANDIDATES]))
            if best is not None:
                return best
    raise UserError(f"{among} has no finished run yet that could be the best")


def objective_of(reader: RunReader, records: list[RunRecord]) -> Objective | None:
    """What some runs are after, as the newest of them tell."""
    return find_objective(reader.filled(records[:CANDIDATES]))


def _find(reader: RunReader, reference: str, experiment: str | None) -> RunRecord:
    within, _, word = reference.rpartition("/")
    if word in (NEWEST, BEST) or (within and word.isdigit()):
        found = _by_word(reader, within or experiment, word)
        if found is not None:
            return found
    records = runs_of(reader, experiment)
    for meant in (
        [one for one in records if one.id == reference],
        [one for one in records if one.name == reference],
        [one for one in records if reference and one.id.startswith(reference)],
    ):
        if len(meant) == 1:
            return meant[0]
        if meant:
            listed = _listed(reader.filled(meant[:SHOWN]), len(meant))
            raise UserError(f"{reference!r} means several runs: {listed}; give more of the id")
    raise UserError(f"there is no run {reference!r}{_near(records, reference)}")


def _by_word(reader: RunReader, within: str | None, word: str) -> RunRecord | None:
    """`latest` and `best` of an experiment or a study, or a study's trial by its number."""
    study = _study(reader, within)
    if study is not None:
        return _of_study(reader, study, word)
    if word.isdigit():
        return None
    records = runs_of(reader, within) if within else models(reader)
    if word == BEST:  # metrics of different experiments can't be compared
        records = [one for one in records if one.experiment == records[0].experiment]
    if not records:
        raise UserError("there are no runs yet: bash scripts/run.sh makes the first")
    return best_of(reader, records, records[0].experiment) if word == BEST else records[0]


def _study(reader: RunReader, name: str | None) -> RunRecord | None:
    found = reader.filled([one for one in reader.headers() if name in (one.name, one.id)])
    return next((one for one in found if one.is_study), None)


def _of_study(reader: RunReader, study: RunRecord, word: str) -> RunRecord:
    trials = trials_of(reader, study)
    if not trials:
        raise UserError(f"the study {study.name} has no trials yet")
    if word == NEWEST:
        return max(trials, key=lambda one: one.started.timestamp() if one.started else 0.0)
    key = "optuna.trial" if word.isdigit() else "best.run_id"
    for trial in trials:
        wanted = word if word.isdigit() else study.tags.get(key)
        if wanted in (trial.id, trial.tags.get(key)):
            return trial
    if word == BEST:
        return best_of(reader, trials, study.name)
    numbers = [trial.tags.get("optuna.trial", "?") for trial in trials]
    raise UserError(f"{study.name} has no trial {word}: it has {numbers[0]} to {numbers[-1]}")


def _experiments(records: Iterable[RunRecord], name: str) -> set[str]:
    """`model/model01` by its name, `model01` for short, or all of a stage."""
    known = {record.experiment for record in records}
    exact = {name, *(f"{stage}/{name}" for stage in STAGES)} & known
    found = exact or {one for one in known if one.split("/")[0] == name}
    if found:
        return found
    near = get_close_matches(name, [*known, *(one.split("/")[-1] for one in known)], n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known)) or 'none'}"
    raise UserError(f"there is no experiment {name!r} with runs: {hint}")


def _near(records: list[RunRecord], reference: str) -> str:
    if not records:
        return ": there are no runs yet"
    names = {
        name: one for one in reversed(records) for name in (one.id[: len(reference)], one.name)
    }
    near = [names[name] for name in get_close_matches(reference, names, n=3, cutoff=0.5)]
    return (
        f": the nearest are {_listed(near)}" if near else f": the newest are {_listed(records[:3])}"
    )


def _listed(records: list[RunRecord], total: int = 0) -> str:
    more = f" and {total - len(records)} more" if total > len(records) else ""
    return ", ".join(f"{one.short} ({_name(one)})" for one in records) + more


def _name(one: RunRecord) -> str:
    """One that means no other run: `trial 1` is in every study, so that is `<study>/1`."""
    study, trial = one.tags.get("optuna.study"), one.tags.get("optuna.trial")
    return f"{study}/{trial}" if study and trial else one.name
