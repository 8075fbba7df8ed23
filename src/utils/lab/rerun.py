"""`lab rerun`: repeat a run from what is saved with it, and compare the results.

The code comes from the commit and the patch of the run, checked out in a git worktree of its own, the
settings from its overrides, the data from this repository. The verdict on metrics and weights is in
`rerun_result.py`. A group is repeated whole, and the weights are compared member by member.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from src.utils.errors import UserError
from src.utils.lab.rerun_result import RerunResult
from src.utils.notification import without_typed
from src.utils.paths import ROOT, SAVED, Experiment, data_folder, list_stages
from src.utils.pipeline.manifest import Manifest
from src.utils.process import RERUN
from src.utils.runs.provenance import packages, read_metadata
from src.utils.store.location import tracking_uri
from src.utils.store.mlflow import get_artifact, open_store
from src.utils.store.reader import open_reader
from src.utils.store.record import MEMBERS
from src.utils.store.reference import find_record, list_members

from mlflow.entities import DatasetInput
from mlflow.entities import Run as StoredRun
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from omegaconf import OmegaConf
from rich import get_console
from rich.markup import escape

WORKTREES = ROOT / "outputs" / "reruns"
MOST_PACKAGES = 8  # that are named in one line


def rerun(
    reference: str,
    overrides: Sequence[str],
    tolerance: float,
    keep: bool,
    other_data: bool = False,
) -> RerunResult:
    """Repeat a run in a worktree and compare the results.

    Args:
        reference: Names the run, as in every `lab` command.
        overrides: Hydra overrides in addition to those of the run.
        tolerance: Of each metric, relative.
        keep: Whether the worktree is left in outputs/reruns.
        other_data: Whether inputs may differ from those of the run.

    Raises:
        UserError: there is no such run, it is a study or a blend, it was made outside git, its inputs have
            changed and `other_data` is not given, its commit is missing, or the program fails.
    """
    record = find_record(reference)
    if record.is_study:
        raise UserError(
            f"{record.name} is a study, not a run: lab rerun {record.name}/best repeats its best trial"
        )
    if record.blended:
        raise UserError(f"{record.short} is a blend: {record.tags['command']} makes it again")
    client = open_store()
    old = client.get_run(record.id)
    folder = get_artifact(client, old, "provenance").parent
    metadata = read_metadata(folder / "provenance")
    if "git" not in metadata:
        raise UserError(
            f"run {record.short} was not made in a git repository: its code is in {folder}/source"
        )
    _report_differences(old, folder, metadata, other_data)
    saved = OmegaConf.load(folder / "config" / "overrides.yaml")
    patch = folder / "provenance" / "changes.patch"
    with _worktree(record.short, metadata["git"]["commit"], patch, keep) as checkout:
        _link_data(checkout, omit=record.experiment)
        threads = metadata["hardware"].get("threads")
        _run_program(checkout, old, [*map(str, saved), *overrides], threads)
    new = _find_rerun(client, old)
    weights = {
        place: _same_weights(client, *pair)
        for place, pair in _weight_pairs(client, old, new).items()
    }
    return RerunResult(old, new, weights, tolerance)


def _report_differences(
    old: StoredRun, folder: Path, metadata: dict[str, Any], other_data: bool
) -> None:
    """Print what has changed since the run; UserError for changed inputs without `other_data`."""
    run_id, inputs = old.info.run_id[:8], _changed_inputs(old)
    if inputs and not other_data:
        raise UserError(
            f"the inputs of run {run_id} have changed since: {'; '.join(inputs)}; "
            f"lab rerun {run_id} --other-data runs it on the present ones"
        )
    for text in [*inputs, *_changed_environment(folder, metadata)]:
        get_console().print(f"[yellow]differs[/] {escape(text)}", soft_wrap=True)


def _changed_inputs(run: StoredRun) -> list[str]:
    """The inputs of a run that exist with other content now."""
    changed = []  # a missing input does not count: it is built before the run starts
    for data in run.inputs.dataset_inputs if run.inputs else []:
        name, digest = data.dataset.name, data.dataset.digest
        manifest = None if _is_output(data) else Manifest.read(Experiment.named(name))
        if manifest and manifest.digest[: len(digest)] != digest:
            changed.append(f"data {name}: {digest[:8]} then, {manifest.digest[:8]} now")
    return changed


def _is_output(data: DatasetInput) -> bool:
    """Whether the run itself wrote the data: the rerun writes them again."""
    return "output" in [tag.value for tag in data.tags if tag.key == "mlflow.data.context"]


def _changed_environment(folder: Path, metadata: dict[str, Any]) -> Iterator[str]:
    """Files that are not saved with the run, and packages that have changed."""
    for name in metadata["git"]["left_out"]:
        yield f"{name} was too large to be saved with the run"
    old = set((folder / "provenance" / "packages.txt").read_text().split())
    changed = sorted(old ^ set(packages()))
    if changed:
        more = " …" if len(changed) > MOST_PACKAGES else ""
        yield f"packages: {', '.join(changed[:MOST_PACKAGES])}{more}"


def _run_program(checkout: Path, old: StoredRun, overrides: list[str], threads: int | None) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(checkout),
        "MLFLOW_TRACKING_URI": tracking_uri(),
        RERUN: old.info.run_id,
        # The order in which numbers are added, and so the last bits, depend on it.
        **({"OMP_NUM_THREADS": str(threads)} if threads else {}),
    }
    program = checkout / old.data.tags["mlflow.source.name"]
    command = [sys.executable, str(program), *overrides]
    get_console().print(
        f"[bold]rerun[/]   {escape(shlex.join(without_typed(command)))}", soft_wrap=True
    )
    if subprocess.run(command, env=environment, cwd=checkout, check=False).returncode != 0:
        raise UserError("the rerun failed: the lines above say why")


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


@contextmanager
def _worktree(name: str, commit: str, patch: Path, keep: bool = False) -> Iterator[Path]:
    """Check out a commit in outputs/reruns/NAME and apply a patch; the working tree is not touched."""
    folder = WORKTREES / name
    _remove_worktree(folder)  # an earlier rerun that was killed may have left one
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        _check_out(folder, commit)
        if patch.stat().st_size:
            _git(folder, "apply", "--whitespace=nowarn", str(patch.resolve()))
        yield folder
    finally:
        if not keep:
            _remove_worktree(folder)


def _check_out(folder: Path, commit: str) -> None:
    if not commit:  # the run is older than the first commit: its patch holds everything
        folder.mkdir()
        _git(folder, "init", "--quiet")
        return
    try:
        _git(ROOT, "worktree", "add", "--quiet", "--detach", str(folder), commit)
    except UserError:
        raise UserError(
            f"commit {commit[:12]} is not in this repository: git fetch, then try again"
        ) from None


def _remove_worktree(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    subprocess.run(["git", "-C", ROOT, "worktree", "prune"], check=False, capture_output=True)


def _git(folder: Path, *arguments: str) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise UserError(f"git {arguments[0]} failed: {done.stderr.strip()}")


def _link_data(checkout: Path, omit: str) -> None:
    """Link the data of this repository, except those that the rerun makes itself."""
    for stage in list_stages():
        parent = data_folder(stage)
        for data in parent.iterdir() if parent.exists() else ():
            link = checkout / data.relative_to(ROOT)
            is_draft = data.name.startswith(".")
            if f"{stage}/{data.name}" == omit or is_draft or not data.is_dir() or link.exists():
                continue
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(data)
