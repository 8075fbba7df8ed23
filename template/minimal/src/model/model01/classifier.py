"""A small network that tells the classes of a table apart.

poetry run python src/model/model01/classifier.py
poetry run python src/model/model01/classifier.py hidden=64 folds=5
poetry run python src/model/model01/classifier.py -m 'learning_rate=tag(log,interval(1e-4,1e-1))'
"""

from src.utils.experiment import experiment
from src.utils.batches import Batch, batch_loader
from src.utils.run import Run
from src.utils.settings import TrainingSettings
from src.utils.training import best_score, tracked_trainer

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn


class Config(TrainingSettings):
    """The types of the settings; their values are in config/model/model01."""

    feature: str | None
    hidden: PositiveInt
    learning_rate: PositiveFloat
    batch_size: PositiveInt


@experiment
def main(cfg: Config, run: Run) -> float:
    """Hold out a fifth of the rows, train on the others, and return the best accuracy."""
    table = read_table(cfg, run)
    targets = torch.tensor(table.pop("target").to_numpy(np.int64))
    inputs = torch.tensor(table.to_numpy(np.float32))
    held_out = torch.arange(len(inputs)) % max(5, cfg.folds) == run.fold

    train, val = (inputs[~held_out], targets[~held_out]), (inputs[held_out], targets[held_out])
    train_loader = batch_loader(*train, batch_size=cfg.batch_size, shuffle=True)
    val_loader = batch_loader(*val, batch_size=len(val[0]))

    model = Classifier(inputs.shape[1], int(targets.max()) + 1, cfg.hidden, cfg.learning_rate)
    trainer = tracked_trainer(run, cfg)
    trainer.fit(model, train_loader, val_loader, ckpt_path=run.resume_from, weights_only=True)
    return best_score(trainer)


def read_table(cfg: Config, run: Run) -> pd.DataFrame:
    """The table of the feature; without one, measurements of tumours that come with scikit-learn."""
    if cfg.feature:
        return pd.read_parquet(run.input("feature") / "table.parquet")
    return load_breast_cancer(as_frame=True).frame


class Classifier(pl.LightningModule):
    """From rows [N, columns] to logits [N, classes]."""

    def __init__(self, columns: int, classes: int, hidden: int, learning_rate: float) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = nn.Sequential(
            nn.BatchNorm1d(columns),
            nn.Linear(columns, hidden),
            nn.ReLU(),
            nn.Linear(hidden, classes),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network(inputs)

    def training_step(self, batch: Batch) -> Tensor:
        inputs, targets = batch
        loss = F.cross_entropy(self(inputs), targets)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Batch) -> None:
        inputs, targets = batch
        logits = self(inputs)
        self.log("val_loss", F.cross_entropy(logits, targets))
        self.log("val_acc", (logits.argmax(1) == targets).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), self.hparams.learning_rate)


if __name__ == "__main__":
    main()
