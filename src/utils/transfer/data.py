"""Data versions travel on request: those that the runs read or wrote."""

from collections.abc import Sequence

from src.utils.transfer.place import Copied, Place, Report
from src.utils.transfer.portable import PortableRun


def move_data(
    source: Place, target: Place, runs: Sequence[PortableRun], report: Report
) -> dict[str, Copied]:
    """Bring the data versions of some runs to another place.

    Returns:
        What was written, by `<stage>/<name>/<digest>`.
    """
    return {}
