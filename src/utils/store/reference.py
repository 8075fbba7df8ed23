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
from src.utils.store.objective import Objective, objective
from src.utils.store.reader import Entry, Ledger, open_ledger

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun
    from mlflow.tracking import MlflowClient

NEWEST, BEST = "latest", "best"
SHOWN = 5  # of several runs that a reference may mean
CANDIDATES = 100  # of the newest runs, those that tell what an experiment is after


def find(reference: str, experiment: str | None = None, ledger: Ledger | None = None) -> Entry:
    """The one run that `reference` means, with all its values."""
    ledger = ledger or open_ledger()
    (entry,) = ledger.filled([_find(ledger, reference, experiment)])
    return entry


def find_run(
    client: "MlflowClient", reference: str, experiment_name: str | None = None
) -> "StoredRun":
    """The same as MLflow has it."""
    return client.get_run(find(reference, experiment_name).id)


def newest_run(client: "MlflowClient", experiment_name: str) -> "StoredRun":
    """The newest finished run of an experiment."""
    for entry in runs_of(open_ledger(), experiment_name):
        if entry.status == "FINISHED":
            return client.get_run(entry.id)
    raise UserError(f"{experiment_name} has no finished run yet")


def runs_of(ledger: Ledger, experiment: str | None = None) -> list[Entry]:
    """The runs of an experiment (`model/model01`, `model01`) or a stage, the newest first."""
    entries = ledger.headers()
    if experiment is None:
        return entries
    names = _experiments(entries, experiment)
    return [entry for entry in entries if entry.experiment in names]


def models(ledger: Ledger) -> list[Entry]:
    """The runs of all models, the newest first; where there are none, all runs there are."""
    entries = ledger.headers()
    return [entry for entry in entries if entry.experiment.startswith("model/")] or entries


def trials_of(ledger: Ledger, study: Entry) -> list[Entry]:
    """The runs of a study's trials, by number, with all their values."""
    parents = ledger.column("tags", "mlflow.parentRunId")
    children = [entry for entry in ledger.headers() if parents.get(entry.id) == study.id]
    return sorted(ledger.filled(children), key=lambda one: int(one.tags.get("optuna.trial", -1)))


def best_of(ledger: Ledger, entries: list[Entry], among: str) -> Entry:
    """The best of some runs, by the metric they were trained for."""
    aim = aim_of(ledger, entries)
    if aim is not None:
        values = ledger.column("metrics", aim.metric)
        ranked = sorted(entries, key=lambda one: aim.rank(values.get(one.id)))
        for start in range(0, len(ranked), CANDIDATES):  # most often the first ones have it
            best = aim.best(ledger.filled(ranked[start : start + CANDIDATES]))
            if best is not None:
                return best
    raise UserError(f"{among} has no finished run yet that could be the best")


def aim_of(ledger: Ledger, entries: list[Entry]) -> Objective | None:
    """What some runs are after, as the newest of them tell."""
    return objective(ledger.filled(entries[:CANDIDATES]))


def _find(ledger: Ledger, reference: str, experiment: str | None) -> Entry:
    within, _, word = reference.rpartition("/")
    if word in (NEWEST, BEST) or (within and word.isdigit()):
        found = _by_word(ledger, within or experiment, word)
        if found is not None:
            return found
    entries = runs_of(ledger, experiment)
    for meant in (
        [one for one in entries if one.id == reference],
        [one for one in entries if one.name == reference],
        [one for one in entries if reference and one.id.startswith(reference)],
    ):
        if len(meant) == 1:
            return meant[0]
        if meant:
            listed = _listed(ledger.filled(meant[:SHOWN]), len(meant))
            raise UserError(f"{reference!r} means several runs: {listed}; give more of the id")
    raise UserError(f"there is no run {reference!r}{_near(entries, reference)}")


def _by_word(ledger: Ledger, within: str | None, word: str) -> Entry | None:
    """`latest` and `best` of an experiment or a study, or a study's trial by its number."""
    study = _study(ledger, within)
    if study is not None:
        return _of_study(ledger, study, word)
    if word.isdigit():
        return None
    entries = runs_of(ledger, within) if within else models(ledger)
    if word == BEST:  # metrics of different experiments can't be compared
        entries = [one for one in entries if one.experiment == entries[0].experiment]
    if not entries:
        raise UserError("there are no runs yet: bash scripts/run.sh makes the first")
    return best_of(ledger, entries, entries[0].experiment) if word == BEST else entries[0]


def _study(ledger: Ledger, name: str | None) -> Entry | None:
    found = ledger.filled([one for one in ledger.headers() if name in (one.name, one.id)])
    return next((one for one in found if one.is_study), None)


def _of_study(ledger: Ledger, study: Entry, word: str) -> Entry:
    trials = trials_of(ledger, study)
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
        return best_of(ledger, trials, study.name)
    numbers = [trial.tags.get("optuna.trial", "?") for trial in trials]
    raise UserError(f"{study.name} has no trial {word}: it has {numbers[0]} to {numbers[-1]}")


def _experiments(entries: Iterable[Entry], name: str) -> set[str]:
    """`model/model01` by its name, `model01` for short, or all of a stage."""
    known = {entry.experiment for entry in entries}
    exact = {name, *(f"{stage}/{name}" for stage in STAGES)} & known
    found = exact or {one for one in known if one.split("/")[0] == name}
    if found:
        return found
    near = get_close_matches(name, [*known, *(one.split("/")[-1] for one in known)], n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known)) or 'none'}"
    raise UserError(f"there is no experiment {name!r} with runs: {hint}")


def _near(entries: list[Entry], reference: str) -> str:
    if not entries:
        return ": there are no runs yet"
    names = {
        name: one for one in reversed(entries) for name in (one.id[: len(reference)], one.name)
    }
    near = [names[name] for name in get_close_matches(reference, names, n=3, cutoff=0.5)]
    return (
        f": the nearest are {_listed(near)}" if near else f": the newest are {_listed(entries[:3])}"
    )


def _listed(entries: list[Entry], total: int = 0) -> str:
    more = f" and {total - len(entries)} more" if total > len(entries) else ""
    return ", ".join(f"{one.short} ({_name(one)})" for one in entries) + more


def _name(one: Entry) -> str:
    """One that means no other run: `trial 1` is in every study, so that is `<study>/1`."""
    study, trial = one.tags.get("optuna.study"), one.tags.get("optuna.trial")
    return f"{study}/{trial}" if study and trial else one.name
