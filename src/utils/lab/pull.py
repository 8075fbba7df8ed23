"""`lab pull`: bring runs of another place to this project."""

from src.utils.lab.transfer import Choice, Transferred, transfer
from src.utils.transfer.where import own_place, source_place


def pull(where: str, choice: Choice, with_data: bool, dry_run: bool) -> Transferred:
    """Bring the chosen runs of another place to this project.

    Args:
        where: as it was typed.
    """
    source = source_place(where)
    return transfer(source, own_place(), choice, with_data, dry_run)
