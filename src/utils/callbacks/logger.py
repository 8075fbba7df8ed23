"""Lightning's MLflow logger, writing into a run that the program has begun."""

from collections.abc import Mapping
from typing import Any

from src.utils.run import Run
from src.utils.store.location import tracking_uri

from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.loggers import MLFlowLogger


class RunLogger(MLFlowLogger):
    """Metrics go through the run's buffer; parameters, checkpoints and status are the run's own."""

    def __init__(self, run: Run) -> None:
        super().__init__(str(run.experiment), tracking_uri=tracking_uri(), run_id=run.id)
        self.run = run
        self.trained = False

    @property
    def save_dir(self) -> str:
        return str(self.run.folder)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if self.trained:  # Lightning would add the number of epochs to what is tested
            metrics = {name: value for name, value in metrics.items() if name != "epoch"}
        self.run.log(metrics, step or 0)

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """They are among the parameters of the run, which are all of its settings."""

    def after_save_checkpoint(self, checkpoint_callback: Checkpoint) -> None:
        """Checkpoints are written where they belong: nothing to copy."""

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        self.trained = True
        self.run.metrics.flush()
