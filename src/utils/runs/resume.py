"""Resuming a run and warm starts: the settings `resume_run=RUN` and `warm_start=RUN`.

resume_run    A stopped run continues under its own id, from its newest checkpoint. A finished run is never
              changed: with a larger `max_epochs`, a new run continues from its whole state.
warm_start    A new run begins with the weights of a run, and with nothing else of its state.

A model without Lightning has no checkpoints. Its program gets the folder of the files that it saved with
`run.save`, and goes on from them as it can.

Restoring the random states and the position in the data: `src/utils/callbacks/exact_resume.py`.
"""

import logging
import pickle
import re
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.utils.config.overrides import override_key
from src.utils.errors import UserError, first_line
from src.utils.paths import SAVED, Experiment
from src.utils.pipeline.manifest import Manifest
from src.utils.process import HEARTBEAT_LIMIT, is_of_this_host, is_rank_zero
from src.utils.runs.downloads import artifact_folder
from src.utils.runs.heartbeat import is_running
from src.utils.runs.member import MemberLink
from src.utils.runs.restore import ensure_inputs
from src.utils.runs.source_code import same_code
from src.utils.settings import (
    AnySettings,
    TrainingSettings,
    flatten,
    load_config,
    settings_of_run,
)
from src.utils.store.mlflow import open_store
from src.utils.store.record import GROUP, MEMBERS, NO_EFFECT, PROCESS
from src.utils.store.reference import find_run

from hydra.core.hydra_config import HydraConfig
from mlflow.entities import Run as StoredRun
from mlflow.tracking import MlflowClient
from omegaconf import DictConfig, OmegaConf

log = logging.getLogger(__name__)
CHECKPOINT = "[!.]*.ckpt"  # one that begins with a dot is a draft
WARM_START = "warm_start={} starts a new run that begins with its weights"


@dataclass(frozen=True)
class ResumePoint:
    """The run and checkpoint that a training begins with."""

    run: StoredRun
    folder: Path  # of its artifacts
    # Or the folder of what a run without Lightning has saved; None if it was stopped before the first
    checkpoint: Path | None
    weights_only: bool  # a warm start
    more_epochs: bool = False  # than the run was to have
    is_training: bool = True  # of Lightning

    @property
    def new_run(self) -> bool:
        """Whether a new run is created. Else the old one is reopened."""
        return self.weights_only or self.more_epochs

    def of_part(self, prefix: str) -> tuple[Path | None, Path | None]:
        """What a part of the run (`fold0/`) is resumed from, and what a warm start of it begins with.

        A warm start from a run without this part begins with the run's own weights.

        Raises:
            UserError: the part has checkpoints, and none can be read.
        """
        found = self._newest(prefix)
        return (None, found or self.checkpoint) if self.weights_only else (found, None)

    def copy_checkpoints(self, checkpoints: Path) -> None:
        """Copy them to a new run: the old best one may stay the best, even after its run is deleted."""
        old = self.folder / "checkpoints"
        for file in old.rglob(CHECKPOINT):
            copy = checkpoints / file.relative_to(old)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, copy)

    def _newest(self, prefix: str) -> Path | None:
        checkpoints, saved = self.folder / "checkpoints" / prefix, self.folder / SAVED / prefix
        if self.is_training:
            return newest_checkpoint(checkpoints) if checkpoints.is_dir() else None
        return saved if has_files(saved) else None

    def check(self, experiment: Experiment) -> list[Manifest]:
        """Check that the code is that of the run, and bring back the data that it has read.

        Returns:
            The versions of its inputs; none for a warm start, which reads those of today.

        Raises:
            UserError: the code has changed since, or a version is gone and can't be rebuilt.
        """
        if self.weights_only:
            return []
        if not same_code(self.folder / "source", experiment.source):
            _refuse(self.run, [f"src/{experiment} has changed since"])
        return ensure_inputs(self.run.info.run_id)


def find_resume_point(
    experiment: Experiment, settings: AnySettings
) -> tuple[AnySettings, ResumePoint | None]:
    """Find the run that the setting `resume_run` or `warm_start` names.

    Returns:
        The settings to train with, which are the run's own with today's overrides, and the resume point.
        The settings as given and None if neither setting names a run.

    Raises:
        UserError: no such run; it is still running, finished, or without a readable checkpoint; the
            overrides contradict the settings of the run that is resumed; or a warm start of a model without
            Lightning, from a run that has saved nothing.
    """
    resumed, warm = (getattr(settings, name, None) for name in ("resume_run", "warm_start"))
    reference = resumed if warm is None else warm
    if reference is None:
        return settings, None
    client = open_store()
    run = find_run(client, str(reference), str(experiment))
    if is_rank_zero() and is_running(run.info.status, run.data.tags):
        raise UserError(_still_running(run))
    if warm is not None:
        run = _same_member(client, run)
    folder = artifact_folder(client, run)
    config = folder / "config"
    before = settings_of_run(load_config(config / "config.yaml"), settings)
    differences = dict(_differences(before, settings))
    more_epochs = (
        warm is None
        and _has_more_epochs(settings, before)
        and bool(differences.pop("max_epochs", None))
    )
    if warm is None:
        _refuse(run, list(differences.values()))
        if run.info.status == "FINISHED" and not more_epochs:
            raise UserError(_finished(run, settings))
    new_run = warm is not None or more_epochs
    used = _with_overrides(load_config(config / "composed.yaml"), settings) if new_run else before
    if getattr(used, "is_group", False):  # its members have the checkpoints
        return used, ResumePoint(run, folder, None, warm is not None)
    if isinstance(settings, TrainingSettings):
        checkpoint = newest_checkpoint(folder / "checkpoints", with_parts=warm is not None)
    else:
        checkpoint = _saved_files(run, folder / SAVED, is_needed=warm is not None)
    is_training = isinstance(settings, TrainingSettings)
    return used, ResumePoint(run, folder, checkpoint, warm is not None, more_epochs, is_training)


def _still_running(run: StoredRun) -> str:
    process = run.data.tags.get(PROCESS, "")
    is_here = is_of_this_host(process)
    where = "" if is_here else f" on {process.partition(' ')[0]}, by its heartbeat"
    killed = "" if is_here else f"; if it was killed, it can be resumed after {HEARTBEAT_LIMIT} s"
    return f"run {run.info.run_id[:8]} is still running{where}: stop it first{killed}"


def _same_member(client: MlflowClient, run: StoredRun) -> StoredRun:
    """Of a group, the run with the fold and seed of this process's member; any other run itself."""
    link = MemberLink.current()
    if link is None or MEMBERS not in run.data.tags:
        return run
    tags = link.member.tags | {GROUP: run.info.run_id}
    found = client.search_runs(
        [run.info.experiment_id],
        " AND ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items()),
    )
    if found:
        return found[0]
    raise UserError(f"the group {run.info.run_id[:8]} has no member {link.name} to begin with")


def _has_more_epochs(settings: AnySettings, before: AnySettings) -> bool:
    if not isinstance(settings, TrainingSettings) or not isinstance(before, TrainingSettings):
        return False  # only Lightning's state is known to be that of an epoch's end
    if before.is_group:
        return False  # each of its members may go on by itself
    return settings.max_epochs > before.max_epochs


def _finished(run: StoredRun, settings: AnySettings) -> str:
    short = run.info.run_id[:8]
    more = "with a larger max_epochs=… a new run goes on from its end; "
    more *= isinstance(settings, TrainingSettings) and MEMBERS not in run.data.tags
    return f"run {short} is finished and stays as it is: {more}{WARM_START.format(short)}"


def _refuse(run: StoredRun, differences: list[str]) -> None:
    if differences:
        short = run.info.run_id[:8]
        raise UserError(
            f"run {short} was another training: {'; '.join(differences)}; {WARM_START.format(short)}"
        )


def _overrides(settings: AnySettings) -> Iterator[tuple[str, Any]]:
    """The settings that were overridden on the command line: dotted name and value."""
    keys = [override_key(override) for override in HydraConfig.get().overrides.task]
    for name, value in flatten(settings.model_dump()):
        is_overridden = any(name == key or name.startswith(f"{key}.") for key in keys)
        if is_overridden and name not in NO_EFFECT:
            yield name, value


def _differences(before: AnySettings, settings: AnySettings) -> Iterator[tuple[str, str]]:
    """The overrides with other values than in the run: dotted name, and text for the message."""
    old = dict(flatten(before.model_dump()))
    for name, value in _overrides(settings):
        if old.get(name) != value:
            yield name, f"{name}={value} (it had {old.get(name)})"


def _with_overrides(composed: DictConfig, settings: AnySettings) -> AnySettings:
    """The settings of the run, with the overrides of now."""
    for name, value in _overrides(settings):
        OmegaConf.update(composed, name, value)
    composed.merge_with({"note": settings.note, "tags": settings.tags, "resume_run": None})
    if (reuse := getattr(settings, "reuse", None)) is not None:
        composed.merge_with({"reuse": reuse})
    if (warm := getattr(settings, "warm_start", None)) is not None:
        composed.merge_with({"warm_start": warm})
    return settings_of_run(composed, settings)


def _saved_files(run: StoredRun, folder: Path, is_needed: bool) -> Path | None:
    """The folder of what a run without Lightning has saved; None if it has saved nothing."""
    if has_files(folder):
        return folder
    if is_needed:
        raise UserError(
            f"run {run.info.run_id[:8]} has saved nothing (run.save): there are no weights to begin with"
        )
    log.warning("the run had saved nothing when it was stopped: starting from the beginning")
    return None


def has_files(folder: Path) -> bool:
    """Whether `run.save` has written files there; one that begins with a dot is a draft."""
    return any(file.is_file() for file in folder.glob("**/[!.]*"))


def newest_checkpoint(folder: Path, with_parts: bool = False) -> Path | None:
    """The newest checkpoint that can be read. A damaged one is skipped with a warning.

    Args:
        with_parts: whether those of the run's parts, in folders of their own, count as well.

    Returns:
        None if no checkpoint was written.

    Raises:
        UserError: there are checkpoints, and none can be read.
    """
    import torch  # late: other models need no torch

    found = folder.rglob(CHECKPOINT) if with_parts else folder.glob(CHECKPOINT)
    files = sorted(found, key=lambda file: file.stat().st_mtime, reverse=True)
    unreadable = []
    for file in files:
        try:
            torch.load(file, map_location="cpu", weights_only=True)
            return file
        except (
            RuntimeError,
            EOFError,
            pickle.UnpicklingError,
            zipfile.BadZipFile,
            OSError,
        ) as error:
            why = _read_failure(error)
            unreadable.append(f"{file.name}: {why}")
            log.warning("%s is damaged (%s): going back to the one before", file.name, why)
    if files:
        raise UserError(
            f"no checkpoint in {folder} can be read ({'; '.join(unreadable)}): this run can't be resumed; "
            "start a new one"
        )
    if not any(folder.rglob(CHECKPOINT)):  # else of parts, which are resumed one by one
        log.warning("the run was stopped before its first checkpoint: starting from the beginning")
    return None


def _read_failure(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):
        found = re.search(r"GLOBAL (\S+)", str(error))
        return f"holds a {found[1]}, not only plain values" if found else "is no checkpoint"
    return first_line(error)
