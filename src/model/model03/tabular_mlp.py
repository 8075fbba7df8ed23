"""A multilayer perceptron that predicts how many bikes are rented in an hour.

    poetry run python src/model/model03/tabular_mlp.py
    poetry run python src/model/model03/tabular_mlp.py folds=5 seeds=3
    poetry run python src/model/model03/tabular_mlp.py -m folds=5 'learning_rate=tag(log,interval(1e-3,1e-2))'

It learns log(1 + count): the mean squared error of the logarithms is what the competition scores.
"""

from typing import Annotated, Any

from src.utils.experiment import experiment
from src.utils.batches import Batch, batch_loader
from src.utils.folds import training_rows
from src.utils.run import Run
from src.utils.settings import TrainingSettings
from src.utils.training import best_checkpoint, best_score, tracked_trainer

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torchmetrics import MeanSquaredError

TARGET, NOT_INPUTS = "count", ["id", "count", "fold"]


class Config(TrainingSettings):
    """The types of the settings; their values are in config/model/model03."""

    feature: str
    embedding: PositiveInt
    hidden: PositiveInt
    dropout: Annotated[float, Field(ge=0, lt=1)]
    learning_rate: PositiveFloat
    weight_decay: NonNegativeFloat
    batch_size: PositiveInt


@experiment
def main(cfg: Config, run: Run) -> float:
    """Train on all folds but one; predict that fold and the test rows with the best epoch's weights.

    Returns:
        The objective of a search: the best RMSLE on the held-out fold.
    """
    rows, test = (
        pd.read_parquet(run.input("feature") / f"{name}.parquet") for name in ("train", "test")
    )
    train = rows[training_rows(rows["fold"], run.fold, run.data_metadata["split"])]
    val = rows[rows["fold"] == run.fold]
    categories, numbers = to_tensors(train)
    model = TabularMLP(
        classes=[len(rows[name].cat.categories) for name in category_names(rows)],
        mean=numbers.mean(0).tolist(),
        std=numbers.std(0).tolist(),
        bias=float(np.log1p(train[TARGET]).mean()),
        embedding=cfg.embedding,
        hidden=cfg.hidden,
        dropout=cfg.dropout,
        learning_rate=cfg.learning_rate,
        weight_decay=cfg.weight_decay,
    )

    trainer = tracked_trainer(run, cfg)
    train_loader = batch_loader(
        categories, numbers, log_target(train), batch_size=cfg.batch_size, shuffle=True
    )
    val_loader = batch_loader(*to_tensors(val), log_target(val), batch_size=len(val))
    trainer.fit(model, train_loader, val_loader, ckpt_path=run.resume_from, weights_only=True)

    best = torch.load(best_checkpoint(trainer).best_model_path, weights_only=True)
    model.load_state_dict(best["state_dict"])
    run.predictions("oof", val["id"], model.predict(val), val[TARGET])
    run.predictions("test", test["id"], model.predict(test))
    return best_score(trainer)


def category_names(rows: pd.DataFrame) -> list[str]:
    """The columns whose type is a category."""
    return list(rows.select_dtypes("category").columns)


def to_tensors(rows: pd.DataFrame) -> tuple[Tensor, Tensor]:
    """The inputs of rows: categories int64 [N, C] and numbers float32 [N, D]."""
    inputs = rows.drop(columns=NOT_INPUTS, errors="ignore")
    names = category_names(inputs)
    codes = np.stack([inputs[name].cat.codes for name in names], axis=1)
    numbers = inputs.drop(columns=names).to_numpy(np.float32)
    return torch.from_numpy(codes).long(), torch.from_numpy(numbers)


def log_target(rows: pd.DataFrame) -> Tensor:
    """log(1 + count), float32 [N]."""
    return torch.from_numpy(np.log1p(rows[TARGET].to_numpy(np.float32)))


def score(target: NDArray[np.float64], prediction: NDArray[np.float64]) -> float:
    """The metric of the competition: the root mean squared error of log(1 + count)."""
    errors = np.log1p(np.maximum(prediction, 0)) - np.log1p(target)
    return float(np.sqrt(np.mean(errors**2)))


class TabularMLP(pl.LightningModule):
    """From categories int64 [N, C] and numbers float32 [N, D] to log(1 + count), [N].

    Args:
        classes: the number of values of each category.
        mean, std: of the training rows' numbers, which normalise them.
        bias: the mean target of the training rows.
        embedding: the size of the vector that is learned for each value of a category.
        hidden: units of the dense layers.
        dropout: the probability that a unit is set to zero.
        learning_rate: the peak of a one-cycle schedule.
        weight_decay: of AdamW.
    """

    def __init__(
        self,
        classes: list[int],
        mean: list[float],
        std: list[float],
        bias: float,
        embedding: int,
        hidden: int,
        dropout: float,
        learning_rate: float,
        weight_decay: float,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)
        self.embeddings = nn.ModuleList(nn.Embedding(count, embedding) for count in classes)
        self.network = nn.Sequential(
            nn.Linear(len(classes) * embedding + len(mean), hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, 1),
        )
        self.rmsle = nn.ModuleDict(
            {f"{split}_rmsle": MeanSquaredError(squared=False) for split in ("train", "val")}
        )

    def forward(self, categories: Tensor, numbers: Tensor) -> Tensor:
        vectors = [
            embed(column) for embed, column in zip(self.embeddings, categories.T, strict=True)
        ]
        scaled = (numbers - self.mean) / self.std
        output: Tensor = self.network(torch.cat([*vectors, scaled], dim=1))
        return self.hparams["bias"] + output.squeeze(1)

    @torch.inference_mode()
    def predict(self, rows: pd.DataFrame) -> NDArray[np.float32]:
        """Return the rented bikes [N] for rows of the feature."""
        self.eval()
        logarithms = self(*(tensor.to(self.device) for tensor in to_tensors(rows)))
        return logarithms.expm1().clamp(min=0).cpu().numpy()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.shared_step("train", batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.shared_step("val", batch)

    def shared_step(self, split: str, batch: Batch) -> Tensor:
        """Return the mean squared error [] of a batch, and add it to the RMSLE of the epoch."""
        categories, numbers, target = batch
        predicted = self(categories, numbers)
        metric = self.rmsle[f"{split}_rmsle"]
        metric.update(predicted.detach(), target)
        self.log(f"{split}_rmsle", metric, on_step=False, on_epoch=True)
        return F.mse_loss(predicted, target)

    def configure_optimizers(self) -> Any:
        rate, decay = self.hparams["learning_rate"], self.hparams["weight_decay"]
        optimizer = torch.optim.AdamW(self.parameters(), rate, weight_decay=decay)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


if __name__ == "__main__":
    main()
