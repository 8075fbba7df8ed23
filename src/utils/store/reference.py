"""Finding the run that a reference means.

Every command and setting that takes a run takes one of these references:

3f2a1b2c…          the run id, or its start
brave-frog-12      the run name; a study's name means the run of the study
latest, best       the newest run, and the best finished one; of one experiment: model01/best
<study>/best       the best trial of a study; <study>/latest, and <study>/7 for its trial 7
<group>/best       the best member of a group; <group>/latest, and <group>/2 for its fold 2 (or seed 2)

Except by its id or through its group, a member is never meant: the newest run is the group.
"""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from src.utils.errors import UserError
from src.utils.store.objective import Objective, find_objective
from src.utils.store.reader import RunReader, open_reader
from src.utils.store.record import EARLIER_TRIALS, FOLD, GROUP, PARENT, SEED, RunRecord

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun
    from mlflow.tracking import MlflowClient

LATEST, BEST = "latest", "best"
MAX_LISTED = 5  # of the runs that an ambiguous reference may mean
SHORTEST = 4  # characters of an id
RECENT_RUNS = 100  # the newest runs, whose values are read to find the objective


def find_record(
    reference: str, experiment: str | None = None, reader: RunReader | None = None
) -> RunRecord:
    """The one run that a reference means, with its params, metrics and tags.

    Args:
        experiment: an experiment or stage; only its runs are searched.
        reader: a reader that is open already.

    Raises:
        UserError: the reference means no run, or several; the store can't be read.
    """
    reader = reader or open_reader()
    (record,) = reader.with_values([_find(reader, reference, experiment)])
    return record


def find_result(reference: str, reader: RunReader | None = None) -> RunRecord:
    """The same, but of a study its best trial.

    Raises:
        UserError: the reference means no run, or several, or a study without a best trial.
    """
    record = find_record(reference, reader=reader)
    return find_record(f"{record.id}/{BEST}", reader=reader) if record.is_study else record


def find_run(
    client: "MlflowClient", reference: str, experiment_name: str | None = None
) -> "StoredRun":
    """The one run that a reference means, as an MLflow run.

    Raises:
        UserError: the reference means no run, or several; the store can't be read.
    """
    return client.get_run(find_record(reference, experiment_name).id)


def _find(reader: RunReader, reference: str, experiment: str | None) -> RunRecord:
    parent, _, word = reference.rpartition("/")
    if word in (LATEST, BEST) or (parent and word.isdigit()):
        found = _find_by_word(reader, parent or experiment, word)
        if found is not None:
            return found
    records = list_runs(reader, experiment)
    for matches in (
        [run for run in records if run.id == reference],
        [run for run in records if run.name == reference],
        [run for run in records if reference and run.id.startswith(reference)],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise _means_several(reader, reference, matches)
    raise UserError(f"there is no run {reference!r}{_hint(records, reference)}")


def _means_several(reader: RunReader, reference: str, matches: list[RunRecord]) -> UserError:
    listed = _join(reader.with_values(matches[:MAX_LISTED]), len(matches), reader)
    return UserError(f"{reference!r} means several runs: {listed}; give more of the id")


def _find_by_word(reader: RunReader, parent: str | None, word: str) -> RunRecord | None:
    """`latest` and `best` of an experiment, a study or a group; of these two one by its number, too."""
    owner = _find_owner(reader, parent)
    if owner is not None:
        return _find_child(reader, owner, word)
    if word.isdigit():
        return None
    records = list_runs(reader, parent) if parent else list_model_runs(reader)
    records = without_members(reader, records)
    if word == BEST:  # metrics of different experiments can't be compared
        records = [run for run in records if run.experiment == records[0].experiment]
    if not records:
        raise UserError("there are no runs yet: bash scripts/run.sh makes the first")
    return find_best(reader, records, records[0].experiment) if word == BEST else records[0]


def _find_owner(reader: RunReader, name: str | None) -> RunRecord | None:
    """The study or group that has this name or id; `STUDY/7` is a group where each trial is one."""
    if not name:
        return None
    parent, _, word = name.rpartition("/")
    if word in (LATEST, BEST) or (parent and word.isdigit()):
        within = _find_by_word(reader, parent or None, word)
        found = [within] if within else []
    else:
        runs = reader.runs()
        found = [run for run in runs if name in (run.name, run.id)]
        found = found or [run for run in runs if len(name) >= SHORTEST and run.id.startswith(name)]
    owners = [run for run in reader.with_values(found) if run.is_study or run.is_group]
    return owners[0] if owners else None


def _find_child(reader: RunReader, owner: RunRecord, word: str) -> RunRecord:
    """A trial of a study, or a member of a group."""
    kinds = ("study", "trial") if owner.is_study else ("group", "member")
    children = (list_trials if owner.is_study else list_members)(reader, owner)
    if not children:
        raise UserError(f"the {kinds[0]} {owner.name} has no {kinds[1]}s yet")
    if word == LATEST:
        return max(children, key=_start)
    if word == BEST:
        tagged = [run for run in children if run.id == owner.tags.get("best.run_id")]
        return tagged[0] if tagged else find_best(reader, children, owner.name)
    found = [run for run in children if word in (_number(run), *_earlier_numbers(run))]
    if len(found) == 1:
        return found[0]
    if found:
        raise _means_several(reader, f"{owner.name}/{word}", found)
    ends = " to ".join(run.place or _number(run) for run in (children[0], children[-1]))
    raise UserError(f"{owner.name} has no {kinds[1]} {word}: it has {ends}")


def _start(record: RunRecord) -> float:
    return record.started.timestamp() if record.started else 0.0


def _number(child: RunRecord) -> str:
    """Of a trial; of a member the fold, or in a group without folds the seed."""
    tags = child.tags
    return tags.get("optuna.trial") or tags.get(FOLD) or tags.get(SEED) or "?"


def _earlier_numbers(child: RunRecord) -> list[str]:
    """Of a trial that was interrupted, and went on as another one with the same run."""
    return child.tags.get(EARLIER_TRIALS, "").split()


def _hint(records: list[RunRecord], reference: str) -> str:
    if not records:
        return ": there are no runs yet"
    names = {
        name: run for run in reversed(records) for name in (run.id[: len(reference)], run.name)
    }
    near = [names[name] for name in get_close_matches(reference, names, n=3, cutoff=0.5)]
    return f": the nearest are {_join(near)}" if near else f": the newest are {_join(records[:3])}"


def _join(records: list[RunRecord], total: int = 0, reader: RunReader | None = None) -> str:
    more = f" and {total - len(records)} more" if total > len(records) else ""
    groups = {run.id: run.name for run in reader.runs()} if reader else {}
    return ", ".join(f"{run.short} ({_unique_name(run, groups)})" for run in records) + more


def _unique_name(run: RunRecord, groups: Mapping[str, str]) -> str:
    """`<study>/1` for a trial, `<group> fold 2` for a member: several studies may try the same."""
    study, trial = run.tags.get("optuna.study"), run.tags.get("optuna.trial")
    if study and trial:
        return f"{study}/{trial}"
    return f"{groups[run.tags[GROUP]]} {run.place}" if run.tags.get(GROUP) in groups else run.name


def newest_run(client: "MlflowClient", experiment_name: str) -> "StoredRun":
    """The newest finished run of an experiment, as an MLflow run.

    Raises:
        UserError: there is none.
    """
    reader = open_reader()
    for record in without_members(reader, list_runs(reader, experiment_name)):
        if record.status == "FINISHED":
            return client.get_run(record.id)
    raise UserError(f"{experiment_name} has no finished run yet")


def list_runs(reader: RunReader, experiment: str | None = None) -> list[RunRecord]:
    """The runs of an experiment (`model/model01` or `model01`) or of a stage, the newest first.

    Raises:
        UserError: no run is of such an experiment or stage.
    """
    records = reader.runs()
    if experiment is None:
        return records
    names = _experiment_names(records, experiment)
    return [record for record in records if record.experiment in names]


def _experiment_names(records: Iterable[RunRecord], name: str) -> set[str]:
    """`model/model01` for `model01` or `model/model01`; for a stage, all of its experiments."""
    known = {record.experiment for record in records}
    exact = {
        experiment for experiment in known if name in (experiment, experiment.partition("/")[2])
    }
    found = exact or {experiment for experiment in known if experiment.split("/")[0] == name}
    if found:
        return found
    near = get_close_matches(name, [*known, *(full.split("/")[-1] for full in known)], n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known)) or 'none'}"
    raise UserError(f"there is no experiment {name!r} with runs: {hint}")


def list_model_runs(reader: RunReader) -> list[RunRecord]:
    """The runs of all models, the newest first; all runs if there are none of models."""
    records = reader.runs()
    # As `RunRecord.is_model`, of whose values only these are read
    data, models = reader.column("params", "force"), reader.column("params", "resume_run")
    studies = reader.column("tags", "optuna.study")
    return [
        run
        for run in records
        if run.id in models
        or run.id in studies
        or (run.experiment.startswith("model/") and run.id not in data)
    ] or records


def list_trials(reader: RunReader, study: RunRecord) -> list[RunRecord]:
    """The trials of a study, by number, with their params, metrics and tags."""
    parents = reader.column("tags", PARENT)
    children = [run for run in reader.runs() if parents.get(run.id) == study.id]
    return sorted(
        reader.with_values(children), key=lambda trial: int(trial.tags.get("optuna.trial", -1))
    )


def list_members(reader: RunReader, group: RunRecord) -> list[RunRecord]:
    """The members of a group, by fold and then by seed, with their params, metrics and tags."""
    groups = reader.column("tags", GROUP)
    members = [run for run in reader.runs() if groups.get(run.id) == group.id]
    return sorted(reader.with_values(members), key=_fold_and_seed)


def without_members(reader: RunReader, records: Sequence[RunRecord]) -> list[RunRecord]:
    """Leave out the members of groups, unless the run of their group was deleted."""
    groups = reader.column("tags", GROUP)
    existing = {run.id for run in reader.runs()} if groups else set()
    return [run for run in records if groups.get(run.id) not in existing]


def _fold_and_seed(member: RunRecord) -> tuple[int, int]:
    return int(member.tags.get(FOLD, 0)), int(member.tags.get(SEED, 0))


def find_best(reader: RunReader, records: list[RunRecord], group: str) -> RunRecord:
    """The best of some runs by their objective.

    Args:
        group: what the runs have in common, for the message.

    Raises:
        UserError: none of the runs can be ranked.
    """
    objective = read_objective(reader, records)
    if objective is not None:
        values = reader.column("metrics", objective.metric)
        ranked = sorted(records, key=lambda run: objective.sort_key(values.get(run.id)))
        for start in range(0, len(ranked), RECENT_RUNS):  # most often the first ones have it
            best = objective.best_run(reader.with_values(ranked[start : start + RECENT_RUNS]))
            if best is not None:
                return best
    raise UserError(f"{group} has no finished run yet that could be the best")


def read_objective(reader: RunReader, records: list[RunRecord]) -> Objective | None:
    """The objective of some runs; the values of the newest of them are read."""
    return find_objective(reader.with_values(records[:RECENT_RUNS]))
