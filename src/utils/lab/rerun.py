"""`lab rerun`: a run again, from what was kept of it, and whether the same came out."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.utils.errors import UserError
from src.utils.paths import DATA, ROOT, Experiment
from src.utils.pipeline.manifest import Manifest
from src.utils.process import RERUN
from src.utils.runs.provenance import packages, read_metadata
from src.utils.store.location import tracking_uri
from src.utils.store.mlflow import get_artifact, open_store
from src.utils.store.objective import RESOURCE_METRICS
from src.utils.store.reference import find_run

from mlflow.entities import DatasetInput
from mlflow.entities import Run as StoredRun
from omegaconf import OmegaConf
from rich import get_console
from rich.markup import escape
from rich.table import Table

PLACE = ROOT / "outputs" / "reruns"


@dataclass(frozen=True)
class RerunResult:
    """Two runs side by side."""

    old: StoredRun
    new: StoredRun
    same_weights: bool | None  # None: there are none to compare
    tolerance: float

    @property
    def metrics(self) -> dict[str, tuple[float, float | None]]:
        """Name -> (old, new)."""
        new = self.new.data.metrics
        kept = {
            k: v for k, v in self.old.data.metrics.items() if not k.startswith(RESOURCE_METRICS)
        }
        return {name: (value, new.get(name)) for name, value in sorted(kept.items())}

    @property
    def verdict(self) -> str:
        """identical (to the bit), within tolerance, or different."""
        pairs = self.metrics.values()
        if all(old == new for old, new in pairs) and self.same_weights is not False:
            return "identical"
        within = (
            new is not None and abs(new - old) <= self.tolerance * abs(old) for old, new in pairs
        )
        return "within tolerance" if all(within) else "different"


def rerun(
    reference: str,
    overrides: Sequence[str],
    tolerance: float,
    keep: bool,
    other_data: bool = False,
) -> RerunResult:
    """Rebuild the state of a run in a worktree, run it there, and compare.

    Raises:
        UserError: it is a study, or its data are not those of today and `other_data` is not given.
    """
    client = open_store()
    old = find_run(client, reference)
    _refuse_study(old, "rerun")
    name = client.get_experiment(old.info.experiment_id).name
    folder = get_artifact(client, old, "provenance").parent
    metadata = read_metadata(folder / "provenance")
    if "git" not in metadata:
        raise UserError(
            f"run {old.info.run_id[:8]} was not made in a git repository: its code is in {folder}/source"
        )
    changed = data_differences(old)
    if changed and not other_data:
        raise UserError(
            f"the data that run {old.info.run_id[:8]} had are not there now: {'; '.join(changed)}; "
            f"lab rerun {old.info.run_id[:8]} --other-data runs it on those of today"
        )
    for difference in [*changed, *differences(old, folder, metadata)]:
        get_console().print(f"[yellow]differs[/] {escape(difference)}", soft_wrap=True)
    typed = OmegaConf.load(folder / "config" / "overrides.yaml")
    patch = folder / "provenance" / "changes.patch"
    with worktree(old.info.run_id[:8], metadata["git"]["commit"], patch, keep) as place:
        link_data(place, but=name)
        _run(place, old, [*map(str, typed), *overrides], metadata["hardware"].get("threads"))
    (new, *_) = client.search_runs(
        [old.info.experiment_id],
        f"tags.rerun_of = '{old.info.run_id}'",
        order_by=["attributes.start_time DESC"],
    ) or [None]
    if new is None:
        raise UserError(f"the rerun of {name} left no run behind")
    return RerunResult(old, new, _same_weights(old, new), tolerance)


def data_differences(old: StoredRun) -> list[str]:
    """What it read that is there with another content; what is missing is built before it runs."""
    read = (
        [] if old.inputs is None else [one for one in old.inputs.dataset_inputs if _is_input(one)]
    )
    manifests = {
        one.dataset.name: Manifest.read(Experiment.named(one.dataset.name)) for one in read
    }
    return [
        f"data {one.dataset.name}: {one.dataset.digest[:8]} then, {manifest.digest[:8]} now"
        for one in read
        if (manifest := manifests[one.dataset.name])
        and manifest.digest[: len(one.dataset.digest)] != one.dataset.digest
    ]


def _is_input(data: DatasetInput) -> bool:
    """What a stage wrote is what the rerun makes itself."""
    return "output" not in [tag.value for tag in data.tags if tag.key == "mlflow.data.context"]


def differences(old: StoredRun, folder: Path, metadata: dict[str, Any]) -> Iterator[str]:
    """What else is not as it was: files that could not be kept, packages."""
    for name in metadata["git"]["left_out"]:
        yield f"{name} was too large to be kept with the run"
    then = set((folder / "provenance" / "packages.txt").read_text().split())
    changed = sorted(then ^ set(packages()))
    if changed:
        yield f"packages: {', '.join(changed[:8])}{' …' if len(changed) > 8 else ''}"


def _refuse_study(run: StoredRun, command: str) -> None:
    tags = run.data.tags
    if "optuna.study" in tags and "optuna.trial" not in tags:
        hint = {
            "rerun": f"lab rerun {run.info.run_name}/best repeats its best trial",
            "resume": f"lab show {run.info.run_name} has the command that goes on with it",
        }
        raise UserError(f"{run.info.run_name} is a study, not a run: {hint[command]}")


def resume(reference: str) -> int:
    """`resume_run=ID`, by the program of the run; returns its exit status."""
    run = find_run(open_store(), reference)
    _refuse_study(run, "resume")
    program = ROOT / run.data.tags["mlflow.source.name"]
    if not program.exists():
        raise UserError(
            f"{program.relative_to(ROOT)} is no longer there: lab rerun can still repeat the run"
        )
    command = [sys.executable, str(program), f"resume_run={run.info.run_id}"]
    return subprocess.run(command, check=False).returncode


def _run(place: Path, old: StoredRun, overrides: list[str], threads: int | None) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(place),
        "MLFLOW_TRACKING_URI": tracking_uri(),
        RERUN: old.info.run_id,
        **({"OMP_NUM_THREADS": str(threads)} if threads else {}),  # sums depend on it
    }
    program = place / old.data.tags["mlflow.source.name"]
    command = [sys.executable, str(program), *overrides]
    get_console().print(f"[bold]rerun[/]   {escape(shlex.join(command))}", soft_wrap=True)
    if subprocess.run(command, env=environment, cwd=place, check=False).returncode != 0:
        raise UserError("the rerun failed: the lines above say why")


def _same_weights(old: StoredRun, new: StoredRun) -> bool | None:
    """Whether the last checkpoints hold the same numbers, to the bit."""
    import torch

    client = open_store()
    try:
        files = [get_artifact(client, run, "checkpoints/last.ckpt") for run in (old, new)]
    except UserError:
        return None
    one, other = (torch.load(f, map_location="cpu", weights_only=True)["state_dict"] for f in files)
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def say(outcome: RerunResult) -> None:
    """Old and new metrics side by side, and the verdict."""
    old, new = outcome.old.info, outcome.new.info
    table = Table("metric", f"then ({old.run_id[:8]})", f"now ({new.run_id[:8]})", "difference")
    for name, (then, now) in outcome.metrics.items():
        change = "" if now is None else "0" if now == then else f"{now - then:+.2e}"
        table.add_row(name, f"{then:.6g}", "" if now is None else f"{now:.6g}", change)
    get_console().print(table)
    weights = {True: "the same to the bit", False: "different", None: "none kept"}
    get_console().print(f"weights: {weights[outcome.same_weights]}")
    get_console().print(f"verdict: [bold]{outcome.verdict}[/]")


@contextmanager
def worktree(name: str, commit: str, patch: Path, keep: bool = False) -> Iterator[Path]:
    """A git worktree at `commit` with `patch` applied; yours is never touched."""
    folder = PLACE / name
    remove(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        _check_out(folder, commit)
        if patch.stat().st_size:
            _git(folder, "apply", "--whitespace=nowarn", str(patch.resolve()))
        yield folder
    finally:
        if not keep:
            remove(folder)


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


def remove(folder: Path) -> None:
    """Also what an earlier rerun that was killed left there."""
    if folder.exists():
        shutil.rmtree(folder)
    subprocess.run(["git", "-C", ROOT, "worktree", "prune"], check=False, capture_output=True)


def link_data(folder: Path, but: str) -> None:
    """Let it read the data of this repository, except those it is to make itself."""
    for stage, place in DATA.items():
        for data in place.iterdir() if place.exists() else ():
            copy = folder / data.relative_to(ROOT)
            if (
                f"{stage}/{data.name}" != but
                and data.is_dir()
                and not data.name.startswith(".")
                and not copy.exists()
            ):
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.symlink_to(data)


def _git(folder: Path, *arguments: str) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise UserError(f"git {arguments[0]} failed: {done.stderr.strip()}")


# MERGED lab/worktree: The code of a run as it was, in a folder of its own: the commit, the patch, the untracked files.
