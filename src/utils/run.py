"""One execution of an experiment, as MLflow records it.

    config/       resolved settings, overrides, Hydra's own files
    source/       the experiment's code, as it ran: `load_model` uses it
    provenance/   commit, patch, packages, machine, command
    logs/         the log file, and the traceback of a run that failed
    checkpoints/  best.ckpt, last.ckpt          pictures/  *.png
"""

import json
import logging
import os
import shutil
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, SupportsFloat

from hydra.core.hydra_config import HydraConfig
from mlflow.entities import DatasetInput, InputTag, Param
from mlflow.entities import Dataset as StoredDataset
from mlflow.tracking import MlflowClient
from omegaconf import OmegaConf

from src.utils import provenance
from src.utils.layout import LOGS, ROOT, Experiment
from src.utils.log import log_file
from src.utils.manifest import Manifest
from src.utils.metrics import MetricBuffer
from src.utils.monitor import system_metrics
from src.utils.settings import Settings
from src.utils.store import experiment_id, local_store, open_store, tracking_uri

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)
RANK_ENV = "JIKKEN_RUN"  # how the processes of one distributed training find their common run


class Run:
    """A run in MLflow, and the local folder that holds its artifacts."""

    output: Path  # where a dataset or feature writes; a model has none

    def __init__(
        self, client: MlflowClient, run_id: str, here: Experiment, sources: list[Manifest]
    ) -> None:
        info = client.get_run(run_id).info
        self.client, self.id, self.here = client, run_id, here
        self.name: str = info.run_name
        self.metrics = MetricBuffer(client, run_id)
        self.sources = {source.experiment.split("/")[0]: source for source in sources}
        self.facts = {key: value for source in sources for key, value in source.facts.items()}
        self.leads = RANK_ENV not in os.environ  # or it is a further process of the same training
        self.interrupted = False
        self.remote = local_store() is None
        self.folder = LOGS / "lightning" / run_id if self.remote else Path(info.artifact_uri)
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def input(self, stage: str) -> Path:
        """The folder of data that the setting `dataset` or `feature` names."""
        return Experiment(*self.sources[stage].experiment.split("/")).data

    def fact(self, **facts: str) -> None:
        """Say something of the data; it is a tag here and on every run that uses what this one makes."""
        self.facts |= facts
        self.tag({f"data.{key}": value for key, value in facts.items()})

    def log(self, metrics: Mapping[str, SupportsFloat], step: int = 0) -> None:
        """Record metrics; they are written in batches (`src/utils/metrics.py`)."""
        if self.leads:
            self.metrics.add(metrics, step)

    def tag(self, tags: Mapping[str, str]) -> None:
        for name, value in tags.items():
            self.client.set_tag(self.id, name, value)

    def picture(self, name: str, figure: "Figure") -> None:
        """Keep a matplotlib figure as `pictures/<name>.png`."""
        if not self.leads:
            return
        path = self.folder / "pictures" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path, dpi=120, bbox_inches="tight")

    def used(self, data: Manifest, context: str) -> None:
        """Record what this run read (`input`) or wrote (`output`), by the digest of its content."""
        folder = Experiment(*data.experiment.split("/")).data.relative_to(ROOT)
        source = json.dumps({"uri": str(folder)})
        stored = StoredDataset(data.experiment, data.digest[:32], "local", source)
        tags = [InputTag("mlflow.data.context", context), InputTag("run_id", data.run_id)]
        self.client.log_inputs(self.id, [DatasetInput(stored, tags)])


@contextmanager
def tracked(here: Experiment, settings: Settings, sources: list[Manifest]) -> Iterator[Run]:
    """A run from its first line to its last, whatever ends it."""
    if RANK_ENV in os.environ:  # a further process of the same training
        yield Run(open_store(), os.environ[RANK_ENV], here, sources)
        return
    run = _begin(here, settings, sources)
    os.environ[RANK_ENV] = run.id
    status = "FAILED"
    try:
        with system_metrics(run.id):
            yield run
        status = "FINISHED"
    except BaseException as error:
        if run.interrupted or isinstance(error, KeyboardInterrupt):
            status = "KILLED"
        else:
            (run.folder / "logs" / "traceback.txt").write_text(traceback.format_exc())
        raise
    finally:
        del os.environ[RANK_ENV]
        run.metrics.flush()
        if run.remote:
            run.client.log_artifacts(run.id, str(run.folder))
        run.client.set_terminated(run.id, status)


def _begin(here: Experiment, settings: Settings, sources: list[Manifest]) -> Run:
    client = open_store()
    code = provenance.code()
    tags = {
        "mlflow.source.name": str(here.program().relative_to(ROOT)),
        "mlflow.source.type": "LOCAL",
        "mlflow.note.content": settings.note,
        "command": provenance.command(),
        "hydra.output": os.path.relpath(HydraConfig.get().runtime.output_dir, ROOT),
        **{f"tag.{tag}": "true" for tag in settings.tags},
    }
    if code:
        tags |= {
            "mlflow.source.git.commit": code.commit,
            "mlflow.source.git.branch": code.branch,
            "git.dirty": str(code.dirty).lower(),
        }
    stored = client.create_run(experiment_id(client, str(here)), tags=tags)
    run = Run(client, stored.info.run_id, here, sources)
    parameters = [Param(key, str(value)) for key, value in _flat(settings.model_dump())]
    client.log_batch(run.id, params=parameters)
    for source in sources:
        run.used(source, "input")
    run.fact(**run.facts)
    if run.facts.get("source") == "sample":
        log.warning("SAMPLE DATA: this run uses the small committed sample, not the full data set")
    _keep_source(run)
    _keep_config(run, settings)
    _keep_provenance(run, code)
    _link_log(run)
    return run


def _flat(settings: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _keep_source(run: Run) -> None:
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(run.here.source, run.folder / "source", ignore=ignore, dirs_exist_ok=True)


def _keep_config(run: Run, settings: Settings) -> None:
    written = Path(HydraConfig.get().runtime.output_dir) / ".hydra"
    shutil.copytree(written, run.folder / "config", dirs_exist_ok=True)
    OmegaConf.save(settings.model_dump(mode="json"), run.folder / "config" / "config.yaml")


def _keep_provenance(run: Run, code: provenance.Code | None) -> None:
    folder = run.folder / "provenance"
    folder.mkdir(exist_ok=True)
    (folder / "packages.txt").write_text("\n".join(provenance.packages()) + "\n")
    facts = {"command": provenance.command(), "hardware": provenance.hardware()}
    if code:
        (folder / "changes.patch").write_bytes(code.patch)
        git = {key: value for key, value in asdict(code).items() if key != "patch"}
        facts["git"] = git | {"dirty": code.dirty}
        for name in code.left_out:
            log.warning("%s is untracked and too large to be kept with the run", name)
    (folder / "facts.json").write_text(json.dumps(facts, indent=2) + "\n")


def _link_log(run: Run) -> None:
    """One log file with two names: in `logs/logging_/`, and with the run's artifacts."""
    written, kept = log_file(), run.folder / "logs" / "run.log"
    kept.parent.mkdir(exist_ok=True)
    if written is None:
        return
    try:
        os.link(written, kept)
    except OSError:  # another file system: what is logged from here on goes to both
        logging.getLogger().addHandler(logging.FileHandler(kept))
