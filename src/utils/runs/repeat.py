"""Repeating a run of a model or a stage from what is saved with it: code, settings, number of threads.

    past = PastRun.read(open_store(), run_id)
    with past.checked_out() as checkout:
        link_inputs(checkout, {Experiment("feature", "feature01"): folder})
        past.repeat(checkout)

The code is checked out in `outputs/reruns/<id>`, with the changes that were not committed; the working tree
is not touched. What a stage makes lies in `_data/<stage>/<name>` of the checkout until the block ends.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from src.utils.errors import UserError, first_line
from src.utils.notification import without_typed
from src.utils.paths import ROOT, Experiment, display_path
from src.utils.process import RERUN, is_of_one_run
from src.utils.runs.git import GitError, git, git_environment, has_commit
from src.utils.runs.kept_code import KEPT, fetch_code
from src.utils.runs.provenance import read_metadata
from src.utils.store.location import mask_password, tracking_uri
from src.utils.store.mlflow import get_artifact

from filelock import FileLock, Timeout
from mlflow.entities import Run as StoredRun
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from omegaconf import OmegaConf
from rich import get_console
from rich.markup import escape

CHECKOUTS = ROOT / "outputs" / "reruns"


@dataclass(frozen=True)
class PastRun:
    """A run with what it has recorded of its code and settings."""

    client: MlflowClient
    stored: StoredRun
    provenance: Path  # the artifact folders
    config: Path

    @classmethod
    def read(cls, client: MlflowClient, run_id: str) -> "PastRun":
        """Read what is needed to repeat a run.

        Raises:
            UserError: it was made outside git, or its artifacts are gone.
        """
        stored = client.get_run(run_id)
        folders = (get_artifact(client, stored, name) for name in ("provenance", "config"))
        past = cls(client, stored, *folders)
        if "git" not in past.metadata:
            source = get_artifact(client, stored, "source")
            raise UserError(
                f"run {past.short} was not made in a git repository: its code is in {source}"
            )
        return past

    @property
    def short(self) -> str:
        """The start of the id, as it is displayed."""
        return str(self.stored.info.run_id)[:8]

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """The keys `command`, `hardware` and `git` of its metadata."""
        return read_metadata(self.provenance)

    @property
    def overrides(self) -> list[str]:
        """The Hydra overrides that were typed."""
        return [str(one) for one in OmegaConf.load(self.config / "overrides.yaml")]

    @contextmanager
    def checked_out(self, keep: bool = False) -> Iterator[Path]:
        """Check out the code of the run; a second process that repeats the same run waits.

        Args:
            keep: whether the folder is left there at the end.

        Raises:
            UserError: the commit is missing, or the changes of the run can't be applied to it.
        """
        folder = CHECKOUTS / self.short
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            _remove(folder)  # one that was killed may have left it
            try:
                _check_out(folder, self.client, self.metadata["git"]["commit"])
                _apply(folder, self.provenance / "changes.patch")
                _check_out_submodules(folder, self.metadata["git"].get("submodules", {}))
                yield folder
            finally:
                if not keep:
                    _remove(folder)

    def repeat(
        self, checkout: Path, overrides: Sequence[str] = (), python: Path = Path(sys.executable)
    ) -> None:
        """Run the program of the run once more, as a new run with the tag `rerun_of`.

        Args:
            checkout: where its code is.
            overrides: Hydra overrides in addition to those of the run.
            python: of the environment in which it runs.

        Raises:
            UserError: the program fails.
        """
        program = checkout / self.stored.data.tags["mlflow.source.name"]
        command = [str(python), str(program), *self.overrides, *overrides]
        shown = escape(shlex.join(without_typed(command)))
        get_console().print(f"[bold]rerun[/]   {shown}", soft_wrap=True)
        environment = self._environment(checkout)
        environment["PATH"] = os.pathsep.join((str(python.parent), environment.get("PATH", "")))
        if subprocess.run(command, env=environment, cwd=checkout, check=False).returncode != 0:
            raise UserError("the rerun failed: the lines above say why")

    def _environment(self, checkout: Path) -> dict[str, str]:
        threads = self.metadata["hardware"].get("threads")
        return {
            **{name: value for name, value in git_environment().items() if not is_of_one_run(name)},
            "PYTHONPATH": str(checkout),
            "MLFLOW_TRACKING_URI": tracking_uri(),
            RERUN: self.stored.info.run_id,
            # The order in which numbers are added, and so the last bits, depend on it.
            **({"OMP_NUM_THREADS": str(threads)} if threads else {}),
        }


def link_inputs(checkout: Path, inputs: Mapping[Experiment, Path]) -> None:
    """Link the data that a run is to read into its checkout.

    Args:
        inputs: the folder of each, wherever it is.
    """
    for experiment, folder in inputs.items():
        link = checkout / experiment.data.relative_to(ROOT)
        if not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(folder.resolve())


def _check_out(folder: Path, client: MlflowClient, commit: str) -> None:
    try:
        if not commit:  # the run is older than the first commit: its patch holds everything
            git(folder.parent, "init", "--quiet", folder.name)
            return
        repository = (
            ROOT if has_commit(ROOT, commit) else KEPT if fetch_code(client, commit) else None
        )
        if repository is not None:
            git(repository, "worktree", "add", "--quiet", "--detach", str(folder), commit)
            return
    except (GitError, OSError, Timeout, MlflowException) as error:
        raise UserError(f"commit {commit[:12]} can't be checked out: {first_line(error)}") from None
    raise UserError(
        f"commit {commit[:12]} is not in this repository, nor in {display_path(KEPT)}, nor with a run of "
        f"{mask_password(tracking_uri())}: git fetch, or copy logs/code.git from where the run was made"
    )


def _check_out_submodules(folder: Path, commits: Mapping[str, str]) -> None:
    for path, commit in commits.items():
        try:
            git(KEPT, "worktree", "add", "--quiet", "--detach", str(folder / path), commit)
        except GitError as error:
            raise UserError(f"the submodule {path} can't be checked out: {error}") from None


def _apply(folder: Path, patch: Path) -> None:
    try:
        if patch.stat().st_size:
            git(folder, "apply", "--whitespace=nowarn", str(patch.resolve()))
    except GitError as error:
        raise UserError(f"the changes of the run can't be applied to its commit: {error}") from None


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    for repository in (ROOT, KEPT):
        with suppress(GitError):
            git(repository, "worktree", "prune")
