"""Data versions travel on request: those that the runs read or wrote, as far as they are still there."""

from collections.abc import Sequence

from src.utils.paths import Experiment
from src.utils.transfer.place import Copied, Place, Report
from src.utils.transfer.portable import PortableRun


def move_data(
    source: Place, target: Place, runs: Sequence[PortableRun], report: Report
) -> dict[str, Copied]:
    """Bring the data versions of some runs to another place.

    Returns:
        What was written, by `<stage>/<name>/<digest>`.
    """
    here, there = source.versions(), target.versions()
    if here is None or there is None:
        return {}
    moved = {}
    for name, digest in dict.fromkeys(data.key for run in runs for data in run.datasets):
        experiment = Experiment.named(name)
        manifest = here.find(experiment, digest)
        if manifest is None or there.find(experiment, digest) is not None:
            continue
        copied = Copied()
        with here.open(manifest, there.missing(manifest)) as folder:
            for size in there.add(manifest, folder, here.builds(manifest)):
                report(size)
                copied = copied.plus(Copied(int(size > 0), size))
        moved[f"{name}/{digest}"] = copied
    return moved
