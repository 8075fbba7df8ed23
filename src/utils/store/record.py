"""A run as it is read back from the store, and the data that it read or wrote."""

from dataclasses import dataclass, field
from datetime import datetime

Value = str | float  # of a param, metric or tag
Curve = dict[int, float]  # the history of a metric: value by step
# Settings without effect on results: runs that differ in nothing else are equal
NO_EFFECT = frozenset(
    {
        *("note", "tags", "stale", "notify", "reuse"),
        *("resume_study", "resume_run", "warm_start"),
        *("resume", "fork"),  # as stored by earlier versions
    }
)
# Of a run that stands alone, as are all runs of earlier versions, which lack these settings
ALONE = {"folds": "1", "fold": "None", "seeds": "1"}
PARENT = "mlflow.parentRunId"  # tag of a trial or a member: the run of its study or group
# Tags of a group, and of its members
MEMBERS, FOLDS, SEEDS = "group.members", "group.folds", "group.seeds"
GROUP, FOLD, SEED = "group.run_id", "group.fold", "group.seed"
DETACHED = "(detached)"  # in place of a branch, as stored

# The tag that MLflow shows as the description. In the run of a study its results follow the note, after an
# invisible separator: no page shows it, and nobody types it.
NOTE, RESULTS = "mlflow.note.content", "\n\n\u2063"
BLENDED = "blend.runs"  # the tag: ids with spaces between
# Tags of a trial's run: its number, those it had before it was interrupted, and how it has ended
TRIAL_NUMBER, EARLIER_TRIALS = "optuna.trial", "optuna.earlier_trials"
TRIAL_STATE = "optuna.state"
SIGNATURE = "signature"  # tag of a model's run (`src/utils/runs/signature.py`)
RETURNED = "returned"  # tag of a model's run: what its main returned
REUSED = "reused_from"  # tag of a trial or member, user attribute of a trial: the run whose results it has
EQUAL = "equal_to"  # user attribute of a trial that has not reused an equal run
# Tags of every run: the process that began or resumed it last, and its last sign of life (seconds since 1970)
JOB = "workers.job"  # tag of a run: the job whose worker has it (`src/utils/workers`)
PROCESS, HEARTBEAT = "process", "heartbeat"
GOES_ON_WITH = "goes_on_with"  # user attribute of a trial: the interrupted one whose run it has
NOT_RESUMED = "not_resumed"  # or why it has a new run
REASON = "reason"  # tag of a run and user attribute of a trial: why it has failed


@dataclass(frozen=True)
class RunRecord:
    """A run. Its params, metrics and tags are empty until `RunReader.with_values` has read them."""

    id: str
    name: str
    experiment: str
    status: str
    started: datetime | None
    ended: datetime | None
    artifact_uri: str
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def short(self) -> str:
        """The start of the id, as it is displayed."""
        return self.id[:8]

    @property
    def settings(self) -> dict[str, str]:
        """The params that have an effect on results, without `folds=1`, `fold=null` and `seeds=1`."""
        return {
            name: value
            for name, value in self.params.items()
            if name not in NO_EFFECT and ALONE.get(name) != value
        }

    @property
    def note(self) -> str:
        return own_note(self.tags.get(NOTE, ""))

    @property
    def reason(self) -> str:
        """Why it has failed, or was ended by `lab doctor`; empty for a run that is finished."""
        return "" if self.status == "FINISHED" else self.tags.get(REASON, "")

    @property
    def labels(self) -> list[str]:
        """The setting `tags`. MLflow's tags are more."""
        return [name.removeprefix("tag.") for name in sorted(self.tags) if name.startswith("tag.")]

    @property
    def state(self) -> str:
        """The status in lower case; `pruned` for a pruned trial, whose status is FINISHED."""
        state = self.tags.get("optuna.state", "")
        return state if state == "pruned" else self.status.lower()

    @property
    def best(self) -> dict[str, str]:
        """The best trial of a study: `run_id`, `value` and its parameters; empty for other runs."""
        tags = self.tags.items()
        return {
            name.removeprefix("best."): value for name, value in tags if name.startswith("best.")
        }

    @property
    def is_study(self) -> bool:
        return "optuna.study" in self.tags and "optuna.trial" not in self.tags

    @property
    def is_model(self) -> bool:
        """Whether it is the run of a model, of whatever stage, or of a study; else it made data."""
        is_old = self.experiment.startswith("model/") and "force" not in self.params
        return "resume_run" in self.params or "optuna.study" in self.tags or is_old

    @property
    def is_group(self) -> bool:
        """Whether its members are runs that each hold out another fold or have another seed."""
        return MEMBERS in self.tags

    @property
    def size(self) -> int:
        """The number of members that a group is to have."""
        return int(self.tags.get(MEMBERS, 0))

    @property
    def shape(self) -> str:
        """Of a group: `5 folds`, `3 seeds`, `5 folds, 3 seeds`."""
        counts = {"folds": self.tags.get(FOLDS, "1"), "seeds": self.tags.get(SEEDS, "1")}
        return ", ".join(f"{count} {name}" for name, count in counts.items() if count != "1")

    @property
    def is_member(self) -> bool:
        return GROUP in self.tags

    @property
    def place(self) -> str:
        """Of a member in its group: `fold 2`, `seed 1`, `fold 2 seed 1`."""
        places = {"fold": self.tags.get(FOLD), "seed": self.tags.get(SEED)}
        return " ".join(f"{name} {number}" for name, number in places.items() if number)

    @property
    def blended(self) -> list[str]:
        """The ids of the runs that `lab blend` has put together; empty for other runs."""
        return self.tags.get(BLENDED, "").split()

    @property
    def commit(self) -> str:
        """The commit of the code; empty outside git."""
        return self.tags.get("mlflow.source.git.commit", "")

    @property
    def branch(self) -> str:
        """The branch that was checked out; empty outside git and without a branch, as in a rerun."""
        branch = self.tags.get("mlflow.source.git.branch", "")
        return "" if branch == DETACHED else branch

    @property
    def is_dirty(self) -> bool:
        """Whether the code had uncommitted changes."""
        return self.tags.get("git.dirty") == "true"

    @property
    def seconds(self) -> float | None:
        """The duration; None for a run that has not ended."""
        if self.started is None or self.ended is None:
            return None
        return (self.ended - self.started).total_seconds()


@dataclass(frozen=True)
class DatasetUse:
    """Data that a run read or wrote."""

    name: str
    digest: str
    context: str  # "input" or "output"
    run_id: str  # of the run that made it


def own_note(description: str) -> str:
    """The setting `note=` in a description: what stands before the results."""
    return description.partition(RESULTS)[0]


def local_time(milliseconds: int | None) -> datetime | None:
    """A time of MLflow, in the machine's time zone."""
    return datetime.fromtimestamp(milliseconds / 1000).astimezone() if milliseconds else None
