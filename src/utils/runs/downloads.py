"""The artifacts of a run in a folder of this machine, wherever the store is.

Where the store is a server, the folder of the process that ran last is used if it is here: it has the newest
checkpoint, uploaded or not. On any other machine all artifacts are downloaded in its place.
"""

import logging
import os
import shutil
import time
from pathlib import Path

from src.utils.errors import UserError
from src.utils.paths import remote_run_folder
from src.utils.process import is_of_this_host
from src.utils.runs.uploads import Record
from src.utils.store.mlflow import get_artifact, local_store
from src.utils.store.record import PROCESS

from filelock import FileLock
from mlflow.entities import Run as StoredRun
from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)


def artifact_folder(client: MlflowClient, run: StoredRun) -> Path:
    """The folder of a run's artifacts.

    Raises:
        UserError: the run was stopped before its settings were recorded.
    """
    if local_store() is not None:
        return get_artifact(client, run, "config").parent
    folder = remote_run_folder(run.info.run_id)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not _is_current(folder, run):
            _download(client, run, folder)
    last_recorded = folder / "config" / "config.yaml"  # of what is recorded when a run begins
    if not last_recorded.exists():
        raise UserError(
            f"run {run.info.run_id[:8]} was stopped before its settings were recorded: start a new one"
        )
    return folder


def _is_current(folder: Path, run: StoredRun) -> bool:
    """Whether a folder has all that the process that ran last has written."""
    process, known = run.data.tags.get(PROCESS, ""), Record.read(folder).process
    if known:
        return known == process
    return folder.is_dir() and is_of_this_host(process)  # as written by earlier versions


def _download(client: MlflowClient, run: StoredRun, folder: Path) -> None:
    """Replace a folder by the artifacts that the store has."""
    draft = folder.with_name(f".{folder.name}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    log.info("downloading the artifacts of run %s", run.info.run_id[:8])
    if client.list_artifacts(run.info.run_id):
        client.download_artifacts(run.info.run_id, "", str(draft))
    order_checkpoints(draft / "checkpoints")
    Record.of_download(draft, run.data.tags.get(PROCESS, "")).write(draft)
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)


def order_checkpoints(folder: Path) -> None:
    """Give downloaded checkpoints times in the order of their steps: they arrive in any order."""
    files = sorted(folder.rglob("*.ckpt"), key=_progress)
    for age, file in enumerate(reversed(files)):
        os.utime(file, (time.time() - age,) * 2)


def _progress(file: Path) -> tuple[int, bool, str]:
    """The step of a checkpoint; of two of one step the last one has more."""
    import torch  # late: other models need no torch

    try:
        step = torch.load(file, map_location="cpu", weights_only=True, mmap=True)["global_step"]
    except Exception:  # a damaged one, of which resuming says more
        step = -1
    return step, file.name == "last.ckpt", str(file)
