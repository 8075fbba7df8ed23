"""One execution of an experiment, as MLflow records it."""

import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, SupportsFloat

from src.utils.errors import UserError
from src.utils.paths import LOGS, ROOT, Experiment, near
from src.utils.pipeline.manifest import Manifest, merged_facts
from src.utils.process import FOLLOWED, follows, this_process
from src.utils.runs.artifacts import record, record_settings
from src.utils.runs.metric_buffer import MetricBuffer, system_metrics
from src.utils.settings import Settings
from src.utils.store.mlflow import experiment_id, local_store, open_store
from src.utils.study.trial import Pruned, TrialLink

from mlflow.entities import Dataset as StoredDataset
from mlflow.entities import DatasetInput, InputTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

if TYPE_CHECKING:
    from src.utils.runs.resume import Resumption

    from matplotlib.figure import Figure


class Run:
    """A run in MLflow, and the local folder that holds its artifacts."""

    output: Path  # where a dataset or feature writes; a model has none
    resume_from: Path | None = None  # the checkpoint that a training goes on from
    weights_from: Path | None = None  # … or only begins with
    longer = False  # it goes on with more epochs than were planned
    has_trainer = False  # a run holds one training

    def __init__(
        self, client: MlflowClient, run_id: str, here: Experiment, sources: list[Manifest]
    ) -> None:
        info = client.get_run(run_id).info
        self.client, self.id, self.here = client, run_id, here
        self.name: str = info.run_name
        self.metrics = MetricBuffer(client, run_id)
        self.sources = [Experiment.named(source.experiment) for source in sources]
        self.facts = merged_facts(sources)
        self.trial = TrialLink.current()
        self.leads = not follows()  # or it is a further process of the same training
        self.ended_by: signal.Signals | None = None
        self.remote = local_store() is None
        self.folder = LOGS / "lightning" / run_id if self.remote else Path(info.artifact_uri)
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def inputs(self, stage: str) -> list[Path]:
        """The folders of data that the setting `dataset` or `feature` names, in its order."""
        return [one.data for one in self.sources if one.stage == stage]

    def input(self, name: str) -> Path:
        """The one folder of data that the setting `dataset` or `feature` names; of several, one by its
        name (`feature02`)."""
        match [one for one in self.sources if name in (one.stage, one.name, str(one))]:
            case [one]:
                return one.data
        there = ", ".join(map(str, self.sources)) or "nothing"
        raise UserError(f"run.input({name!r}): {self.here} reads {there}; name one of these")

    def fact(self, **facts: str) -> None:
        """Say something of the data: a tag here, and on every run that uses what this one makes."""
        self.facts |= facts
        self.tag({f"data.{key}": value for key, value in facts.items()})

    def log(self, metrics: Mapping[str, SupportsFloat], step: int = 0) -> None:
        """Record metrics; they are written in batches (`src/utils/runs/metric_buffer.py`)."""
        if self.leads:
            self.metrics.add(metrics, step)

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags in MLflow."""
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
        folder = Experiment.named(data.experiment).data.relative_to(ROOT)
        source = json.dumps({"uri": str(folder)})
        stored = StoredDataset(data.experiment, data.digest[:32], "local", source)
        tags = [InputTag("mlflow.data.context", context), InputTag("run_id", data.run_id)]
        try:
            self.client.log_inputs(self.id, [DatasetInput(stored, tags)])
        except MlflowException:  # another trial was first to record these data, in this very moment
            self.client.log_inputs(self.id, [DatasetInput(stored, tags)])

    def terminate(self, *_: object) -> None:
        """What SIGTERM does; a training ends after its batch (`src/utils/callbacks/interruption.py`)."""
        self.ended_by = signal.SIGTERM
        sys.exit(128 + signal.SIGTERM)

    def close(self, status: str) -> None:
        """Write what is waiting, upload the folder if the store is elsewhere, and end the run."""
        self.metrics.flush()
        if self.remote:
            self.client.log_artifacts(self.id, str(self.folder))
        self.client.set_terminated(self.id, status)


def create_run(
    here: Experiment, tags: Mapping[str, str], sources: list[Manifest], name: str | None = None
) -> Run:
    """A new run, with what is known of code, machine and data when it begins."""
    client = open_store()
    stored = client.create_run(experiment_id(client, str(here)), tags=dict(tags), run_name=name)
    run = Run(client, stored.info.run_id, here, sources)
    for source in sources:
        run.used(source, "input")
    run.fact(**run.facts)
    return run


def _begin(here: Experiment, sources: list[Manifest], resumption: "Resumption | None") -> Run:
    """A new run; or, where one is resumed, that one."""
    if resumption is not None and not resumption.new_run:
        return _reopened(here, sources, resumption)
    trial = TrialLink.current()
    run = create_run(here, trial.tags() if trial else {}, sources, trial.name if trial else None)
    if trial is not None:
        trial.note("run_id", run.id)
    if resumption is not None:
        origin = "forked_from" if resumption.fork else "continued_from"
        run.tag({origin: resumption.run.info.run_id})
        if resumption.longer:
            _keep_checkpoints(resumption, run)
    return run


def _reopened(here: Experiment, sources: list[Manifest], resumption: "Resumption") -> Run:
    client = open_store()
    client.update_run(resumption.run.info.run_id, status="RUNNING")
    run = Run(client, resumption.run.info.run_id, here, sources)
    run.tag({"process": this_process()})
    return run


def _keep_checkpoints(resumption: "Resumption", run: Run) -> None:
    """The best one may stay the best, whatever becomes of the run that it is from."""
    run.checkpoints.mkdir(exist_ok=True)
    for file in (resumption.folder / "checkpoints").glob("*.ckpt"):
        shutil.copy2(file, run.checkpoints)


def _going_on(run: Run, resumption: "Resumption | None") -> Run:
    """The run, told from which checkpoint it goes on or begins."""
    if resumption is not None and resumption.fork:
        run.weights_from = resumption.checkpoint
    elif resumption is not None:
        run.resume_from, run.longer = resumption.checkpoint, resumption.longer
    return run


@contextmanager
def tracked(
    here: Experiment,
    settings: Settings,
    sources: list[Manifest],
    resumption: "Resumption | None" = None,
) -> Iterator[Run]:
    """A run from its first line to its last, whatever ends it."""
    if follows():
        yield _going_on(Run(open_store(), os.environ[FOLLOWED], here, sources), resumption)
        return
    run = _going_on(_begin(here, sources, resumption), resumption)
    os.environ[FOLLOWED] = run.id
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, run.terminate)
    status = "FAILED"
    try:
        if resumption is None or resumption.new_run:
            record(run.client, run.id, run.folder, here, settings.note, settings.tags)
            record_settings(run.client, run.id, run.folder, settings)
        with system_metrics(run.id):
            yield run
        status = "FINISHED"
    except Pruned:
        status = "FINISHED"
        raise
    except BaseException as error:
        if run.ended_by or isinstance(error, KeyboardInterrupt):
            status = "KILLED"
            raise SystemExit(128 + (run.ended_by or signal.SIGINT)) from None
        (run.folder / "logs").mkdir(exist_ok=True)
        written = run.folder / "logs" / "traceback.txt"
        written.write_text(traceback.format_exc())
        error.add_note(f"the whole traceback: {near(written)}")
        raise
    finally:
        del os.environ[FOLLOWED]
        run.close(status)
