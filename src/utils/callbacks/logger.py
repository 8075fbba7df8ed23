"""Lightning's MLFlowLogger for a run that exists already."""

from collections.abc import Mapping
from typing import Any

from src.utils.run import Run
from src.utils.store.location import tracking_uri

from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.loggers import MLFlowLogger


class RunLogger(MLFlowLogger):
    """Logs metrics through `run.log`. The run itself records parameters, checkpoints and status."""

    def __init__(self, run: Run) -> None:
        super().__init__(str(run.experiment), tracking_uri=tracking_uri(), run_id=run.id)
        self.run = run
        self.fit_ended = False

    @property
    def save_dir(self) -> str:
        return str(self.run.folder / self.run.prefix)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if self.fit_ended:  # Lightning adds the number of epochs to the metrics of a test
            metrics = {name: value for name, value in metrics.items() if name != "epoch"}
        self.run.log(metrics, step or 0)

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing: the parameters of the run are all of its settings."""

    def after_save_checkpoint(self, checkpoint_callback: Checkpoint) -> None:
        """Do nothing: checkpoints are saved in the artifact folder of the run."""

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        self.fit_ended = True
        self.run.metrics.flush()
