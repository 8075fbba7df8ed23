"""`resume_run=ID`: going on with a run.

A run that was stopped goes on as itself. A finished one is never touched: with `max_epochs=MORE` a new
run goes on from all of its state, with `fork=true` a new run begins with its weights alone.
"""

import logging
import pickle
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.utils.errors import UserError, reason
from src.utils.paths import Experiment
from src.utils.pipeline.manifest import Manifest
from src.utils.process import follows, is_gone
from src.utils.runs.source_code import same_code
from src.utils.settings import AnySettings, flat, load_config, validated
from src.utils.store.mlflow import artifact, open_store
from src.utils.store.reference import find_run

import torch
from hydra.core.hydra_config import HydraConfig
from mlflow.entities import Run as StoredRun
from omegaconf import OmegaConf

log = logging.getLogger(__name__)
CONTROLS = {"resume", "resume_run", "fork", "note", "tags", "stale"}  # they don't change a training


@dataclass(frozen=True)
class Resumption:
    """A run, and the checkpoint to go on from; None where it was stopped before its first."""

    run: StoredRun
    folder: Path
    checkpoint: Path | None
    fork: bool
    longer: bool = False  # with more epochs than it was to have

    @property
    def new_run(self) -> bool:
        """Whether the run itself stays as it is."""
        return self.fork or self.longer

    def check(self, here: Experiment, sources: list[Manifest]) -> None:
        """Refuse to mix code or data of two trainings in one run."""
        if not self.fork:
            _refuse(self.run, list(_drift(here, self.run, self.folder, sources)))


def resumed(
    here: Experiment, settings: AnySettings
) -> tuple[AnySettings, Resumption] | tuple[AnySettings, None]:
    """The settings to train with, and what to go on from, if `resume_run` asks for it.

    Raises:
        UserError: the run still runs, is finished, has no sound checkpoint among those it wrote, or was
            typed other settings for without `fork=true`.
    """
    asked, fork = getattr(settings, "resume_run", None), getattr(settings, "fork", False)
    if asked is None:
        return settings, None
    client = open_store()
    run = find_run(client, str(asked), str(here))
    if not follows() and run.info.status == "RUNNING" and not is_gone(run.data.tags["process"]):
        raise UserError(f"run {run.info.run_id[:8]} is still running: stop it first")
    config = artifact(client, run, "config")
    kept = validated(type(settings), load_config(config / "config.yaml"))
    changes = dict(_changes(kept, settings))
    longer = not fork and _is_longer(kept, settings) and bool(changes.pop("max_epochs", None))
    if not fork:
        _refuse(run, list(changes.values()))
    if run.info.status == "FINISHED" and not (fork or longer):
        raise UserError(_finished(run))
    going_on = _forked(config, settings) if fork or longer else kept
    checkpoint = newest_checkpoint(config.parent / "checkpoints")
    return going_on, Resumption(run, config.parent, checkpoint, fork, longer)


def _is_longer(kept: AnySettings, settings: AnySettings) -> bool:
    """Whether more epochs are asked for than the run had."""
    epochs: tuple[int, int] = (getattr(settings, "max_epochs", 0), getattr(kept, "max_epochs", 0))
    return epochs[0] > epochs[1]


def _finished(run: StoredRun) -> str:
    return (
        f"run {run.info.run_id[:8]} is finished and stays as it is: with a larger max_epochs=… a new "
        "run goes on from its end; fork=true starts a new run that begins with its weights"
    )


def _refuse(run: StoredRun, differences: list[str]) -> None:
    if differences:
        raise UserError(
            f"run {run.info.run_id[:8]} was another training: {'; '.join(differences)}; "
            "fork=true starts a new run that begins with its weights"
        )


def _typed(settings: AnySettings) -> Iterator[tuple[str, Any]]:
    """The settings that were typed, with their values."""
    keys = [one.split("=")[0].lstrip("+~") for one in HydraConfig.get().overrides.task]
    for name, value in flat(settings.model_dump()):
        if any(name == key or name.startswith(f"{key}.") for key in keys) and name not in CONTROLS:
            yield name, value


def _changes(kept: AnySettings, settings: AnySettings) -> Iterator[tuple[str, str]]:
    """What was typed otherwise than the run had it: name, and how it is told."""
    before = dict(flat(kept.model_dump()))
    for name, value in _typed(settings):
        if before.get(name) != value:
            yield name, f"{name}={value} (it had {before.get(name)})"


def _drift(
    here: Experiment, run: StoredRun, folder: Path, sources: list[Manifest]
) -> Iterator[str]:
    """What has changed since beside the settings."""
    if not same_code(folder / "source", here.source):
        yield f"src/{here} has changed since"
    inputs = run.inputs.dataset_inputs if run.inputs else []
    had = {one.dataset.name: one.dataset.digest for one in inputs}
    for source in sources:
        if had.get(source.experiment) != source.digest[:32]:
            yield f"the data of {source.experiment} have changed since"


def _forked(config: Path, settings: AnySettings) -> AnySettings:
    """The settings the run had, with what was typed now in their place."""
    composed = load_config(config / "composed.yaml")
    for name, value in _typed(settings):
        OmegaConf.update(composed, name, value)
    composed.merge_with({"note": settings.note, "tags": settings.tags, "resume_run": None})
    return validated(type(settings), composed)


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest sound one; a file that was cut off is passed over, and named. None where no checkpoint
    was written.

    Raises:
        UserError: there are checkpoints, and none can be read.
    """
    files = sorted(folder.glob("*.ckpt"), key=lambda file: file.stat().st_mtime, reverse=True)
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
            why = _why(error)
            unreadable.append(f"{file.name}: {why}")
            log.warning("%s is damaged (%s): going back to the one before", file.name, why)
    if files:
        raise UserError(
            f"no checkpoint in {folder} can be read ({'; '.join(unreadable)}): this run can't be gone "
            "on with; start a new one"
        )
    log.warning("the run was stopped before its first checkpoint: starting from the beginning")
    return None


def _why(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):
        found = re.search(r"GLOBAL (\S+)", str(error))
        return f"holds a {found[1]}, not only plain values" if found else "is no checkpoint"
    return reason(error)
