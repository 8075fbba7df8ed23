"""A member of a group: the run of one fold and one seed (`src/utils/groups`).

The group sets the link in the environment of the member's job, not in its config.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from src.utils.process import TRIAL
from src.utils.settings import ModelSettings
from src.utils.store.record import FOLD, GROUP, PARENT, RETURNED, SEED

MEMBER = "JIKKEN_MEMBER"  # environment variable
SEPARATOR = " | "
VALUE = "group.value"  # tag of a member: what `main` returned, as stored by earlier versions


@dataclass(frozen=True)
class Member:
    """One fold and one seed."""

    fold: int | None  # None in a group of seeds alone
    seed: int
    name: str  # of its run in MLflow: `fold 2`, `seed 1`, `fold 2 seed 1`

    @property
    def settings(self) -> dict[str, int | None]:
        """The settings that make a run this member."""
        return {"fold": self.fold, "seed": self.seed, "seeds": 1}

    @property
    def overrides(self) -> list[str]:
        """The same as overrides."""
        return [f"{name}={'null' if it is None else it}" for name, it in self.settings.items()]

    @property
    def tags(self) -> dict[str, str]:
        """The tags of its run that tell it from the other members."""
        fold = {} if self.fold is None else {FOLD: str(self.fold)}
        return fold | {SEED: str(self.seed)}


def members_of(settings: ModelSettings) -> list[Member]:
    """The members of a group: all folds with the first seed, then with the next.

    A pruner sees them in this order.
    """
    by_folds = settings.folds > 1 and settings.fold is None
    folds = range(settings.folds) if by_folds else [settings.fold]
    seeds = range(settings.seed, settings.seed + settings.seeds)
    return [Member(fold, seed, _name(settings, fold, seed)) for seed in seeds for fold in folds]


def _name(settings: ModelSettings, fold: int | None, seed: int) -> str:
    parts = [] if fold is None else [f"fold {fold}"]
    return " ".join([*parts, f"seed {seed}"] if settings.seeds > 1 else parts)


@dataclass(frozen=True)
class MemberLink:
    """Identifies the member that a job runs, and the run of its group."""

    group: str
    member: Member

    @classmethod
    def current(cls) -> "MemberLink | None":
        """The member of this process; None outside a group."""
        if MEMBER not in os.environ:
            return None
        group, fold, seed, name = os.environ[MEMBER].split(SEPARATOR)
        return cls(group, Member(int(fold) if fold else None, int(seed), name))

    def to_override(self) -> str:
        """The override by which Hydra sets the environment variable, with any launcher."""
        fold = "" if self.member.fold is None else self.member.fold
        text = SEPARATOR.join(map(str, (self.group, fold, self.member.seed, self.member.name)))
        return f"+hydra.job.env_set.{MEMBER}='{text}'"

    @property
    def name(self) -> str:
        return self.member.name

    def tags(self) -> dict[str, str]:
        """The tags of the run."""
        return {PARENT: self.group, GROUP: self.group, **self.member.tags}


def is_one_of_many() -> bool:
    """Whether this process runs a trial of a study or a member of a group."""
    return TRIAL in os.environ or MEMBER in os.environ


def returned_by(tags: Mapping[str, str]) -> str:
    """What `main` of a run returned, as JSON; empty for a run that has not ended."""
    return tags.get(RETURNED) or tags.get(VALUE, "")
