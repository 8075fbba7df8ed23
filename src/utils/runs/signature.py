"""The signature of a run: one digest of what decides its result. Runs that have the same one are equal.

    code        all files in the folder of the experiment, and src/utils
    settings    those that have an effect; of a path, the size and time of its files
    data        the content of all inputs
    beginning   the run whose weights a warm start begins with, or that a run with more epochs goes on from

Nothing else counts: neither the name of the experiment, nor packages, machine, number of threads and
environment variables. A group, a member, a trial and a run that stands alone are compared with each other:
a member is equal to a run with its fold and seed.

Data have a fingerprint instead (`src/utils/pipeline/manifest.py`).
"""

import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from src.utils.paths import ROOT, Experiment
from src.utils.pipeline.manifest import Manifest, absolute_paths_read, json_digest
from src.utils.pipeline.recipe import file_states
from src.utils.runs.source_code import source_files
from src.utils.settings import Settings
from src.utils.store.record import NO_EFFECT, SIGNATURE

if TYPE_CHECKING:
    from src.utils.runs.resume import ResumePoint

LENGTH = 32  # letters, as many as MLflow has of the digest of data
ENGINE = ROOT / "src" / "utils"
BEGINNINGS = ("warm_start_from", "continued_from")  # tags of a run that began with another


@cache
def code_digest(folder: Path) -> str:
    """The digest of the code of an experiment and of `src/utils`, as of the first call.

    All trials of a sweep run the code that was there when the sweep began, whatever is edited meanwhile.
    """
    own = {name.as_posix(): _sha256(content) for name, content in source_files(folder).items()}
    engine = {
        file.relative_to(ENGINE).as_posix(): _sha256(file.read_bytes())
        for file in ENGINE.rglob("*.py")
    }
    return json_digest([own, engine])


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def signature(
    experiment: Experiment,
    settings: Settings,
    inputs: list[Manifest],
    start: "ResumePoint | None",
) -> str:
    """The signature of a run that is about to start.

    Args:
        start: the run that it resumes or begins with.

    Returns:
        An empty text where equal signatures would not mean equal results: what the run begins with may
        still change, or it resumes a run that began with other code.
    """
    resumed = start.run.data.tags if start is not None and not start.new_run else None
    if start is not None and start.new_run and start.run.info.status != "FINISHED":
        return ""
    values = settings.model_dump(mode="json", exclude={*NO_EFFECT})
    read = {str(path): file_states(path) for path in absolute_paths_read(settings)}
    data = {manifest.experiment: manifest.digest for manifest in inputs}
    parts = [code_digest(experiment.source), values, read, data, _beginning(start)]
    found = json_digest(parts)[:LENGTH]
    return found if resumed is None or resumed.get(SIGNATURE) == found else ""


def _beginning(start: "ResumePoint | None") -> dict[str, str]:
    """How the run began, and with which run; of a run that is resumed, how it once began."""
    if start is None:
        return {}
    if start.new_run:
        return {BEGINNINGS[start.more_epochs]: start.run.info.run_id}
    tags = start.run.data.tags
    return {tag: tags[tag] for tag in BEGINNINGS if tag in tags}
