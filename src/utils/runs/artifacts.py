"""What is recorded when a run begins: its tags and parameters in MLflow, and these artifacts.

config/       the resolved settings, the overrides, Hydra's own files
source/       the experiment's code as it ran: `load_model` imports it
provenance/   commit, patch, packages, hardware, command
logs/         the log file; later the traceback of a run that failed

Later come checkpoints/ (Lightning), model/ (`run.save`), figures/ (`run.figure`) and predictions/
(`run.predictions`).
"""

import json
import logging
import os
import shutil
import traceback
from dataclasses import asdict
from pathlib import Path

from src.utils.paths import ROOT, Experiment
from src.utils.pipeline.manifest import Manifest
from src.utils.process import RERUN
from src.utils.runs import provenance
from src.utils.runs.kept_code import keep_code, share_code
from src.utils.runs.member import MemberLink
from src.utils.runs.source_code import copy_source
from src.utils.settings import Settings, flatten
from src.utils.terminal import log_file

from hydra.core.hydra_config import HydraConfig
from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from omegaconf import OmegaConf

log = logging.getLogger(__name__)
COMMIT = "mlflow.source.git.commit"  # the tag
MAX_NAMES = 5  # of files in a warning


def record_run(
    client: MlflowClient,
    run_id: str,
    folder: Path,
    experiment: Experiment,
    note: str,
    labels: list[str],
) -> None:
    """Record everything but the settings, which the run of a study doesn't have.

    Args:
        folder: of the artifacts.
        labels: the setting `tags`.
    """
    tags = save_provenance(folder / "provenance") | _tags(experiment)
    tags |= {"mlflow.note.content": note} | {f"tag.{label}": "true" for label in labels}
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    copy_source(experiment.source, folder / "source")
    _link_log_file(folder / "logs" / "run.log")
    share_code(client, run_id, tags.get(COMMIT, ""))


def record_settings(client: MlflowClient, run_id: str, folder: Path, settings: Settings) -> None:
    """Record the settings: as parameters with dotted names, and as a file beside Hydra's own."""
    params = [Param(key, str(value)) for key, value in flatten(settings.model_dump())]
    client.log_batch(run_id, params=params)
    config = folder / "config"
    shutil.copytree(Path(_hydra_output()) / ".hydra", config, dirs_exist_ok=True)
    (config / "config.yaml").rename(config / "composed.yaml")
    OmegaConf.save(settings.model_dump(mode="json"), config / "config.yaml")


def save_provenance(folder: Path) -> dict[str, str]:
    """Write the provenance of this process to a folder; returns the tags that say the most of it."""
    git = provenance.git_state()
    folder.mkdir(exist_ok=True)
    (folder / "packages.txt").write_text("\n".join(provenance.packages()) + "\n")
    metadata = {"command": provenance.command(), "hardware": provenance.hardware()}
    tags = {"command": provenance.command()}
    if git:
        (folder / "changes.patch").write_bytes(git.patch)
        values = {key: value for key, value in asdict(git).items() if key != "patch"}
        metadata["git"] = values | {"dirty": git.dirty}
        _warn_of_left_out(git.left_out)
        keep_code(git.commit)
        for path, commit in git.submodules.items():
            keep_code(commit, ROOT / path)
        tags |= {
            COMMIT: git.commit,
            "mlflow.source.git.branch": git.branch,
            "git.dirty": str(git.dirty).lower(),
        }
    (folder / provenance.METADATA[0]).write_text(json.dumps(metadata, indent=2) + "\n")
    return tags


def log_dataset(client: MlflowClient, run_id: str, data: Manifest, context: str) -> None:
    """Log data as a dataset of MLflow, by the digest of its content; the context is `input` or `output`."""
    folder = Experiment.named(data.experiment).data.relative_to(ROOT)
    source = json.dumps({"uri": str(folder)})
    dataset = Dataset(data.experiment, data.digest[:32], "local", source)
    tags = [InputTag("mlflow.data.context", context), InputTag("run_id", data.run_id)]
    try:
        client.log_inputs(run_id, [DatasetInput(dataset, tags)])
    except MlflowException:  # another trial has recorded the same data at this moment
        client.log_inputs(run_id, [DatasetInput(dataset, tags)])


def log_inputs_of(client: MlflowClient, source: str, run_id: str) -> None:
    """Log the data that the run `source` has read as inputs of a second run; MLflow stores each once."""
    inputs = client.get_run(source).inputs
    if inputs and inputs.dataset_inputs:
        client.log_inputs(run_id, inputs.dataset_inputs)


def save_traceback(folder: Path) -> Path:
    """Write the traceback of the exception that is being handled to a run's `logs/traceback.txt`."""
    file = folder / "logs" / "traceback.txt"
    file.parent.mkdir(exist_ok=True)
    file.write_text(traceback.format_exc())
    return file


def _tags(experiment: Experiment) -> dict[str, str]:
    is_member = MemberLink.current() is not None  # of a rerun of its group
    return {
        **({"rerun_of": os.environ[RERUN]} if RERUN in os.environ and not is_member else {}),
        "mlflow.source.name": str(experiment.program().relative_to(ROOT)),
        "mlflow.source.type": "LOCAL",
        "hydra.output": os.path.relpath(_hydra_output(), ROOT),
    }


def _hydra_output() -> str:
    """Hydra's output folder of this run; the sweep folder for the run of a study."""
    config = HydraConfig.get()
    missing = OmegaConf.is_missing(config.runtime, "output_dir")
    return str(config.sweep.dir if missing else config.runtime.output_dir)


def _warn_of_left_out(files: list[str]) -> None:
    if files:
        more = f" and {len(files) - MAX_NAMES} more" if len(files) > MAX_NAMES else ""
        names = ", ".join(files[:MAX_NAMES]) + more
        log.warning("untracked and too large to be kept with the run: %s", names)


def _link_log_file(link: Path) -> None:
    """Give the log file in `logs/logging_/` a second name among the artifacts."""
    link.parent.mkdir(exist_ok=True)
    file = log_file()
    if file is None:
        return
    try:
        os.link(file, link)
    except OSError:  # another file system: from here on, both files are written
        logging.getLogger().addHandler(logging.FileHandler(link))
