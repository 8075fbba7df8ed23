"""What is kept with a run when it begins, besides its metrics.

config/       resolved settings, overrides, Hydra's own files
source/       the experiment's code, as it ran: `load_model` uses it
provenance/   commit, patch, packages, machine, command
logs/         the log file, and later the traceback of a run that failed
"""

import json
import logging
import os
import shutil
from dataclasses import asdict
from pathlib import Path

from src.utils.paths import ROOT, Experiment
from src.utils.process import RERUN, this_process
from src.utils.runs import provenance
from src.utils.runs.source_code import keep
from src.utils.settings import Settings, flatten
from src.utils.terminal import log_file

from hydra.core.hydra_config import HydraConfig
from mlflow.entities import Param, RunTag
from mlflow.tracking import MlflowClient
from omegaconf import OmegaConf

log = logging.getLogger(__name__)


def record(
    client: MlflowClient,
    run_id: str,
    folder: Path,
    experiment: Experiment,
    note: str,
    labels: list[str],
) -> None:
    """Tag a run and fill its folder, except for its settings: a study has none of its own."""
    code = provenance.code()
    tags = _tags(experiment, code) | {"mlflow.note.content": note}
    tags |= {f"tag.{label}": "true" for label in labels}
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    keep(experiment.source, folder / "source")
    _keep_provenance(folder, code)
    _keep_log(folder)


def record_settings(client: MlflowClient, run_id: str, folder: Path, settings: Settings) -> None:
    """As parameters, flattened, and as a file beside what Hydra wrote."""
    rows = [Param(key, str(value)) for key, value in flatten(settings.model_dump())]
    client.log_batch(run_id, params=rows)
    written = Path(_output()) / ".hydra"
    shutil.copytree(written, folder / "config", dirs_exist_ok=True)
    (folder / "config" / "config.yaml").rename(folder / "config" / "composed.yaml")
    OmegaConf.save(settings.model_dump(mode="json"), folder / "config" / "config.yaml")


def _tags(experiment: Experiment, code: provenance.Code | None) -> dict[str, str]:
    tags = {
        **({"rerun_of": os.environ[RERUN]} if RERUN in os.environ else {}),
        "mlflow.source.name": str(experiment.program().relative_to(ROOT)),
        "mlflow.source.type": "LOCAL",
        "command": provenance.command(),
        "process": this_process(),
        "hydra.output": os.path.relpath(_output(), ROOT),
    }
    if code:
        tags |= {
            "mlflow.source.git.commit": code.commit,
            "mlflow.source.git.branch": code.branch,
            "git.dirty": str(code.dirty).lower(),
        }
    return tags


def _output() -> str:
    """Hydra's folder of this run; of the whole sweep, where that is what is recorded."""
    config = HydraConfig.get()
    missing = OmegaConf.is_missing(config.runtime, "output_dir")
    return str(config.sweep.dir if missing else config.runtime.output_dir)


def _keep_provenance(folder: Path, code: provenance.Code | None) -> None:
    place = folder / "provenance"
    place.mkdir(exist_ok=True)
    (place / "packages.txt").write_text("\n".join(provenance.packages()) + "\n")
    metadata = {"command": provenance.command(), "hardware": provenance.hardware()}
    if code:
        (place / "changes.patch").write_bytes(code.patch)
        git = {key: value for key, value in asdict(code).items() if key != "patch"}
        metadata["git"] = git | {"dirty": code.dirty}
        if code.left_out:
            more = f" and {len(code.left_out) - 5} more" if len(code.left_out) > 5 else ""
            names = ", ".join(code.left_out[:5]) + more
            log.warning("untracked and too large to be kept with the run: %s", names)
    (place / provenance.METADATA[0]).write_text(json.dumps(metadata, indent=2) + "\n")


def _keep_log(folder: Path) -> None:
    """One log file with two names: in `logs/logging_/`, and with the run's artifacts."""
    written, kept = log_file(), folder / "logs" / "run.log"
    kept.parent.mkdir(exist_ok=True)
    if written is None:
        return
    try:
        os.link(written, kept)
    except OSError:  # another file system: what is logged from here on goes to both
        logging.getLogger().addHandler(logging.FileHandler(kept))
