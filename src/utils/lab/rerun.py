"""`lab rerun`: repeat a run, and compare the results.

How it is repeated is in `src/utils/runs/repeat.py`, how it gets its data in `restore.py` beside it. Here is
what differs from then, and the weights are compared, of a group member by member. The verdict on metrics,
weights and data is in `rerun_result.py`.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from platform import python_version
from typing import Any

from src.utils.errors import UserError
from src.utils.lab.rerun_result import RerunResult
from src.utils.paths import SAVED, Experiment
from src.utils.pipeline.manifest import Manifest
from src.utils.runs.environment import differing_packages, environment_of
from src.utils.runs.repeat import PastRun
from src.utils.runs.restore import adopt, ensure_inputs, forced, link_data
from src.utils.store.mlflow import get_artifact, open_store
from src.utils.store.reader import open_reader
from src.utils.store.record import MEMBERS
from src.utils.store.reference import find_record, list_members

from mlflow.entities import Run as StoredRun
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from rich import get_console
from rich.markup import escape

MOST_PACKAGES = 8  # that are named in one line


def rerun(
    reference: str,
    overrides: Sequence[str],
    tolerance: float,
    keep: bool,
    other_data: bool = False,
    with_packages: bool = False,
) -> RerunResult:
    """Repeat a run in a checkout of its code and compare the results.

    Args:
        reference: Names the run, as in every `lab` command.
        overrides: Hydra overrides in addition to those of the run.
        tolerance: Of each metric, relative.
        keep: Whether the checkout is left in outputs/reruns.
        other_data: Whether today's inputs are read, in place of the versions that the run has read.
        with_packages: Whether it runs in an environment with the versions of packages that the run had.

    Raises:
        UserError: there is no such run, it is a study or a blend, it was made outside git, its inputs are
            gone and can't be rebuilt, its commit or its packages are missing, or the program fails.
    """
    record = find_record(reference)
    if record.is_study:
        raise UserError(
            f"{record.name} is a study, not a run: lab rerun {record.name}/best repeats its best trial"
        )
    if record.blended:
        raise UserError(f"{record.short} is a blend: {record.tags['command']} makes it again")
    client, experiment = open_store(), Experiment.named(record.experiment)
    past = PastRun.read(client, record.id)
    _print_differences(_other_inputs(record.id) if other_data else ())
    _print_differences(_unlike_then(past, with_packages))
    differing = differing_packages(past)
    if not with_packages:
        _print_differences(_changed_packages(differing))
    inputs = {} if other_data else ensure_inputs(record.id)
    with past.checked_out(keep) as checkout:
        link_data(checkout, past, experiment, inputs)
        python = environment_of(past, checkout) if with_packages else Path(sys.executable)
        past.repeat(checkout, [*forced(past), *overrides], python)
        adopt(checkout, experiment)
    result = _compare(client, past.stored, _find_rerun(client, past.stored), tolerance)
    return replace(result, with_packages=with_packages, packages=differing)


def _compare(client: MlflowClient, old: StoredRun, new: StoredRun, tolerance: float) -> RerunResult:
    weights = {
        place: _same_weights(client, *pair)
        for place, pair in _weight_pairs(client, old, new).items()
    }
    then, now = (_outputs(run.info.run_id) for run in (old, new))
    data = {name: (digest, now.get(name)) for name, digest in then.items()}
    return RerunResult(old, new, weights, tolerance, data)


def _outputs(run_id: str) -> dict[str, str]:
    """The digests of what a stage has made."""
    uses = open_reader().datasets(run_id)
    return {used.name: used.digest for used in uses if used.context == "output"}


def _print_differences(texts: Iterable[str]) -> None:
    for text in texts:
        get_console().print(f"[yellow]differs[/] {escape(text)}", soft_wrap=True)


def _other_inputs(run_id: str) -> Iterator[str]:
    """The inputs of a run that have other content today. One that is missing is built when it is needed."""
    for used in open_reader().datasets(run_id):
        manifest = Manifest.read(Experiment.named(used.name)) if used.context == "input" else None
        if manifest and not manifest.digest.startswith(used.digest):
            yield f"data {used.name}: {used.digest[:8]} then, {manifest.digest[:8]} now"


def _unlike_then(past: PastRun, with_packages: bool) -> Iterator[str]:
    """Files that are not saved with the run, and another Python than the one it is repeated with."""
    for name in past.metadata["git"]["left_out"]:
        yield f"{name} was too large to be saved with the run"
    then, now = past.metadata["hardware"]["python"], python_version()
    is_found = with_packages and then.split(".")[:2] != now.split(".")[:2]
    if then != now and not is_found:
        yield f"Python {then} then, {now} now"


def _changed_packages(differing: dict[str, tuple[str, str]]) -> Iterator[str]:
    """The packages that are others today, in one line."""
    if differing:
        pairs = list(differing.items())[:MOST_PACKAGES]
        words = (f"{name} {then or 'none'}, now {now or 'none'}" for name, (then, now) in pairs)
        more = f"; and {len(differing) - len(pairs)} more" if len(differing) > len(pairs) else ""
        yield f"packages: {'; '.join(words)}{more}"


def _find_rerun(client: MlflowClient, old: StoredRun) -> StoredRun:
    found = client.search_runs(
        [old.info.experiment_id],
        f"tags.rerun_of = '{old.info.run_id}'",
        order_by=["attributes.start_time DESC"],
    )
    if not found:
        raise UserError(f"the rerun of {old.info.run_id[:8]} has made no run")
    return found[0]


def _weight_pairs(
    client: MlflowClient, old: StoredRun, new: StoredRun
) -> dict[str, tuple[StoredRun, StoredRun]]:
    """The runs whose weights are compared: the members of a group, by fold and seed."""
    if MEMBERS not in old.data.tags:
        return {"": (old, new)}
    reader = open_reader()
    before, after = (
        {
            run.place: run
            for run in list_members(reader, find_record(one.info.run_id, reader=reader))
        }
        for one in (old, new)
    )
    return {
        place: (client.get_run(run.id), client.get_run(after[place].id))
        for place, run in before.items()
        if place in after
    }


def _same_weights(client: MlflowClient, old: StoredRun, new: StoredRun) -> bool | None:
    """Whether the last checkpoints and the files of `run.save` are bit-identical; None without both."""
    parts = (_same_checkpoints(client, old, new), _same_files(client, old, new))
    known = [part for part in parts if part is not None]
    return all(known) if known else None


def _same_checkpoints(client: MlflowClient, old: StoredRun, new: StoredRun) -> bool | None:
    try:
        folders = [get_artifact(client, run, "checkpoints") for run in (old, new)]
    except (UserError, MlflowException):
        return None
    left, right = (_last_weights(folder) for folder in folders)
    if not left or not right:
        return None
    return left.keys() == right.keys() and all(left[key].equal(right[key]) for key in left)


def _last_weights(folder: Path) -> dict[str, Any]:
    """The tensors of the last checkpoint of a run, or of each of its parts."""
    import torch  # late: a model without Lightning has no checkpoints

    return {
        f"{file.relative_to(folder)} {name}": tensor
        for file in folder.rglob("last.ckpt")
        for name, tensor in torch.load(file, map_location="cpu", weights_only=True)[
            "state_dict"
        ].items()
    }


def _same_files(client: MlflowClient, old: StoredRun, new: StoredRun) -> bool | None:
    try:
        folders = [get_artifact(client, run, SAVED) for run in (old, new)]
    except (UserError, MlflowException):
        return None
    left, right = (
        {
            file.relative_to(folder): file.read_bytes()
            for file in folder.rglob("*")
            if file.is_file()
        }
        for folder in folders
    )
    return left == right
