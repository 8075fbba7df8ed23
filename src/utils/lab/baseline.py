"""How a run departs from what its experiment does when nothing is typed."""

from src.utils.lab.condition import number
from src.utils.store.entry import Entry

NOT_COMPARED = ("seed", "note", "tags", "stale", "resume", "resume_run", "fork", "force")


def departures(one: Entry, base: dict[str, str]) -> dict[str, str]:
    """The settings in which a run departed from the defaults, each once."""
    return without_echoes(
        {
            name: value
            for name, value in one.params.items()
            if name not in NOT_COMPARED and not _equal(value, base.get(name))
        }
    )


def without_echoes(settings: dict[str, str]) -> dict[str, str]:
    """Less what follows from another setting of the same name (trainer.max_epochs)."""
    return {
        name: value
        for name, value in settings.items()
        if "." not in name or settings.get(name.split(".")[-1]) != value
    }


def _equal(value: str, other: str | None) -> bool:
    if other is None or value == other:
        return value == other
    left, right = number(value), number(other)
    return left is not None and left == right
