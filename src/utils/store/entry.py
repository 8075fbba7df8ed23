"""A run as the ledger has it: what is known of it, and where its artifacts are."""

from dataclasses import dataclass, field
from datetime import datetime

Value = str | float


@dataclass(frozen=True)
class Entry:
    """A run; its params, metrics and tags are there once `Ledger.filled` has read them."""

    id: str
    name: str
    experiment: str
    status: str
    started: datetime | None
    ended: datetime | None
    location: str  # of its artifacts
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def short(self) -> str:
        return self.id[:8]

    @property
    def note(self) -> str:
        return self.tags.get("mlflow.note.content", "")

    @property
    def labels(self) -> list[str]:
        """What was typed as tags=[…]."""
        return [name.removeprefix("tag.") for name in sorted(self.tags) if name.startswith("tag.")]

    @property
    def state(self) -> str:
        """The status, and for a trial what became of it."""
        state = self.tags.get("optuna.state", "")
        return state if state == "pruned" else self.status.lower()

    @property
    def best(self) -> dict[str, str]:
        """Of a study: what its run tells of the best trial (`run_id`, `value` and its parameters)."""
        tags = self.tags.items()
        return {
            name.removeprefix("best."): value for name, value in tags if name.startswith("best.")
        }

    @property
    def is_study(self) -> bool:
        return "optuna.study" in self.tags and "optuna.trial" not in self.tags

    @property
    def is_dirty(self) -> bool:
        return self.tags.get("git.dirty") == "true"

    @property
    def seconds(self) -> float | None:
        if self.started is None or self.ended is None:
            return None
        return (self.ended - self.started).total_seconds()


@dataclass(frozen=True)
class Used:
    """Data that a run read (`input`) or wrote (`output`), and the run that made them."""

    name: str
    digest: str
    context: str
    run_id: str


def moment(milliseconds: int | None) -> datetime | None:
    """MLflow's time, in the time zone of the machine."""
    return datetime.fromtimestamp(milliseconds / 1000).astimezone() if milliseconds else None
