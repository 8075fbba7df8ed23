"""The overrides of a command line, as Hydra's grammar has them: `x=1`, `+x=1`, `~x`, `group@package=file`."""

from collections.abc import Sequence


def override_key(override: str) -> str:
    """Return the key of an override: `x` of `+x=1`, `hydra.sweeper.sampler` of `hydra/sweeper/sampler=…`."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0].replace("/", ".")


def merge_overrides(stored: Sequence[str], new: Sequence[str]) -> list[str]:
    """Return the stored overrides and the new ones.

    A new override replaces the stored ones of its key, and of all keys below it: another sampler does not get
    the settings of the one before.
    """
    new_keys = tuple(f"{override_key(one)}." for one in new)
    remaining = [one for one in stored if not f"{override_key(one)}.".startswith(new_keys)]
    return [*remaining, *new]
