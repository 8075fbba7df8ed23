"""What was typed for a sweep, as overrides: what of it belongs to a study, and how it comes back."""

from collections.abc import Sequence

# Of the process that joins a study, or of the way to it, and not of the study
NOT_KEPT = (
    "hydra.sweeper.n_trials",  # has a place of its own
    "hydra.sweeper.n_jobs",
    "hydra.sweeper.storage",
    "hydra.sweeper.study_name",
    "hydra.launcher.n_jobs",
    "hydra.sweep.dir",
    "hydra.verbose",
)


def name_of(override: str) -> str:
    """`hydra.sweeper.sampler` of `hydra/sweeper/sampler=tpe`, `x` of `+x=1`."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0].replace("/", ".")


def kept(typed: Sequence[str]) -> list[str]:
    """Those of what was typed as hydra.* that a study keeps."""
    return [one for one in typed if name_of(one) not in NOT_KEPT]


def merged(before: Sequence[str], typed: Sequence[str]) -> list[str]:
    """What was typed before, less what is typed now, or belongs to it, as a sampler's own settings do."""
    now = [name_of(one) for one in typed]
    left = [one for one in before if not any(_within(name_of(one), name) for name in now)]
    return [*left, *typed]


def _within(name: str, other: str) -> bool:
    return f"{name}.".startswith(f"{other}.")
