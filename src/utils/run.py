"""The run that `main(cfg, run)` gets: one execution of an experiment, recorded in MLflow."""

import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat

from src.utils.config.sweep_settings import DIRECTIONS, Mode
from src.utils.errors import UserError
from src.utils.files import replace_file
from src.utils.paths import Experiment, remote_run_folder
from src.utils.pipeline.manifest import Manifest, merge_metadata
from src.utils.predictions import save_predictions
from src.utils.process import exit_code, is_rank_zero
from src.utils.runs.artifacts import log_dataset
from src.utils.runs.heartbeat import Heartbeat, signs_of_life
from src.utils.runs.member import MemberLink
from src.utils.runs.metric_buffer import MetricBuffer
from src.utils.runs.part import Fit
from src.utils.runs.uploads import Uploads
from src.utils.store.mlflow import experiment_id, local_store, open_store
from src.utils.store.objective import MONITOR, Objective
from src.utils.study.trial import Pruned, TrialLink

from mlflow.tracking import MlflowClient

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Run(Fit):
    """A run in MLflow, and the local folder of its artifacts; or a part of it (`part`)."""

    experiment: Experiment  # whose run it is: `model/model01`
    data: list[Experiment]  # the inputs that it reads
    output: Path  # the folder that an experiment with `StageSettings` writes
    fold = 0  # the fold of the data to hold out

    def __init__(
        self, client: MlflowClient, run_id: str, experiment: Experiment, inputs: list[Manifest]
    ) -> None:
        super().__init__()
        info = client.get_run(run_id).info
        self.client, self.id, self.experiment = client, run_id, experiment
        self.name: str = info.run_name  # as MLflow shows it: `brawny-lark-8`
        self.metrics = MetricBuffer(client, run_id)
        self.data = [Experiment.named(manifest.experiment) for manifest in inputs]
        self._versions = {Experiment.named(one.experiment): one.folder for one in inputs}
        self.data_metadata = merge_metadata(inputs)  # what `tag_data` has set for the inputs
        self.trial: TrialLink | None = TrialLink.current()  # its trial in a search
        self.member: MemberLink | None = MemberLink.current()  # its place in a group
        self.is_rank_zero = is_rank_zero()
        is_remote = local_store() is None  # whether MLflow's store is on another machine
        self.folder = remote_run_folder(run_id) if is_remote else Path(info.artifact_uri)
        self.folder.mkdir(parents=True, exist_ok=True)
        # Of the artifacts, where the store is elsewhere
        self.uploads = Uploads(client, run_id, self.folder) if is_remote else None
        self.heartbeat = Heartbeat(client, run_id)  # says that it goes on

    def inputs(self, stage: str) -> list[Path]:
        """The folders of all inputs of a stage (`feature`, or one's own), in the order of the setting."""
        return [self._versions[source] for source in self.data if source.stage == stage]

    def input(self, name: str) -> Path:
        """The folder of an input: of the version with which the run began, whatever is built meanwhile.

        Args:
            name: the stage (`feature`); if the setting names several inputs, one of them (`feature02`).

        Raises:
            UserError: the run has no such input, or several.
        """
        match [source for source in self.data if name in (source.stage, source.name, str(source))]:
            case [source]:
                return self._versions[source]
        known = ", ".join(map(str, self.data)) or "nothing"
        raise UserError(f"run.input({name!r}): {self.experiment} reads {known}; name one of these")

    def log(self, metrics: Mapping[str, SupportsFloat], step: int = 0) -> None:
        """Log metrics by name. `step` is where they are in a curve: an epoch, a batch, a number of trees."""
        if self.is_rank_zero:
            self.metrics.add(self._prefixed(metrics), step)

    def report(self, value: SupportsFloat, step: int) -> None:
        """Report an intermediate value to the trial of a study with one objective; else do nothing.

        Args:
            step: counts the reports of a trial: an epoch, a fold, a number of trees. A part counts its own.

        Raises:
            Pruned: the pruner ends the trial.
        """
        if self.trial is None or self.trial.n_objectives > 1 or not self.is_rank_zero:
            return
        if self.trial.report(float(value), self.count_report(step), self.resumes):
            raise Pruned(f"pruned at step {step}")

    def objective(self, metric: str, mode: Mode) -> None:
        """Name the metric by which runs and trials are compared, in the tag `monitor`.

        The settings `monitor` and `mode` do the same without this call. The metric of a part is only
        compared with the direction of the study.

        Args:
            metric: a name that is given to `log`.

        Raises:
            UserError: the mode is neither `min` nor `max`, or the study has the other direction.
        """
        if mode not in DIRECTIONS:
            raise UserError(f"run.objective({metric!r}, {mode!r}): the mode should be min or max")
        if not self.is_rank_zero:
            return
        if self.trial is not None:
            self.trial.check_direction(mode)
        objective = Objective(self.metrics.stored_name(metric), mode == "max")
        if not self.prefix:
            self.tag({MONITOR: objective.to_tag()})

    def save(self, name: str, write: Callable[[Path], object]) -> Path:
        """Save a file of the model as the artifact `model/<name>`, in its own format; returns its path.

            run.save("model.txt", booster.save_model)
            run.save("weights.npz", lambda file: np.savez(file, **weights))

        A process that is killed leaves the complete file, or the one before.

        Args:
            name: a file name with the suffix of the format; it may have folders.
            write: called with the path to write to.

        Raises:
            UserError: the name leads out of the folder, or `write` wrote no file to the path.
        """
        file = self.saved / name
        if self.saved.resolve() not in file.resolve().parents:
            raise UserError(f"run.save({name!r}): the name should be that of a file, without ..")
        if not self.is_rank_zero:
            return file
        with replace_file(file) as draft:
            write(draft)
            if not draft.is_file():
                raise UserError(f"run.save({name!r}): no file was written to the path given")
            self.metrics.flush()  # a run that is resumed from this file has what was logged before
        return file

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags in MLflow."""
        for name, value in tags.items():
            self.client.set_tag(self.id, name, value)

    def tag_data(self, **metadata: str) -> None:
        """Set the tags `data.<name>` on this run, and on every run that reads the data it writes."""
        self.data_metadata |= metadata
        self.tag({f"data.{key}": value for key, value in metadata.items()})

    def figure(self, name: str, figure: "Figure") -> None:
        """Save a matplotlib figure as the artifact `figures/<name>.png`."""
        if not self.is_rank_zero:
            return
        path = self.folder / "figures" / self.prefix / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120, bbox_inches="tight")

    def predictions(self, split: str, ids: Any, values: Any, target: Any = None) -> None:
        """Write predictions as the artifact `predictions/<split>.parquet`; a second call replaces it.

        A group pools the rows that its members hold out, and has the metric `oof_score` if the program has
        `def score(target, prediction) -> float`. A loop over folds in one process concatenates them.

        Args:
            split: "oof", rows that the model was not trained on, or "test".
            ids: what identifies the N rows, in every run the same, each once.
            values: [N], or [N, K] for classes (probabilities, not labels) or several targets: an array,
                list, Series, DataFrame or tensor. The columns of a DataFrame keep their names.
            target: the true values, where they are known.

        Raises:
            UserError: an id is not unique, a value is no finite number, the numbers of rows differ, or it is
                called for a part, whose rows the run would lose.
        """
        if self.prefix:
            raise UserError(
                f"run.predictions is called for the part {self.prefix}: call it once, for the run, after "
                "the loop, with the rows of all parts"
            )
        if self.is_rank_zero:
            save_predictions(self.folder, split, ids, values, target)

    def log_dataset(self, data: Manifest, context: str) -> None:
        """Log data as a dataset of MLflow; the context of what this run reads is "input", else "output"."""
        log_dataset(self.client, self.id, data, context)

    def terminate(self, *_: object) -> None:
        """Handle SIGTERM outside a training; `src/utils/callbacks/interruption.py` does so inside one."""
        self.ended_by = signal.SIGTERM
        sys.exit(exit_code(signal.SIGTERM))

    def begin(self, forks: bool = False) -> None:
        """Show that it goes on, and upload to a remote store; in a thread unless it `forks` other runs."""
        self.heartbeat.start()
        if self.uploads is not None:
            self.uploads.start(in_background=not forks)

    def close(self, status: str | None) -> None:
        """Flush the metrics, upload the artifacts to a remote store, and set the final status, if any."""
        if self.heartbeat.is_lost():
            return
        final = status and "FAILED"  # unless all goes well
        try:
            self.metrics.flush()
            if self.uploads is not None:
                self.uploads.finish(is_stopped=status in ("KILLED", None))
            final = status
        except (KeyboardInterrupt, SystemExit):
            final = status and "KILLED"
            raise
        finally:
            self.heartbeat.stop()
            if final is not None:
                self.client.set_terminated(self.id, final)


def create_run(
    experiment: Experiment,
    tags: Mapping[str, str],
    inputs: list[Manifest],
    name: str | None = None,
) -> Run:
    """Create a run in MLflow.

    Raises:
        UserError: the MLflow store can't be opened, or the MLflow experiment was deleted.
    """
    client = open_store()
    number = experiment_id(client, str(experiment))
    stored = client.create_run(number, tags={**tags, **signs_of_life()}, run_name=name)
    return Run(client, stored.info.run_id, experiment, inputs)
