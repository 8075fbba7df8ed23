"""`lab pull`: bring runs of another place to this project."""

from src.utils.lab.travel import Choice, Travelled, travel
from src.utils.transfer.where import own_place, source_place


def pull(where: str, choice: Choice, with_data: bool, dry_run: bool) -> Travelled:
    """Bring the chosen runs of another place to this project.

    Args:
        where: as it was typed.
    """
    source = source_place(where)
    return travel(source, own_place(), choice, with_data, dry_run)
