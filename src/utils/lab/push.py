"""`lab push`: bring runs of this project to another place."""

from src.utils.lab.transfer import Choice, Transferred, transfer
from src.utils.transfer.where import own_place, target_place


def push(where: str, choice: Choice, with_data: bool, dry_run: bool) -> Transferred:
    """Bring the chosen runs to another place.

    Args:
        where: as it was typed.
    """
    target = target_place(where)
    return transfer(own_place(), target, choice, with_data, dry_run)
