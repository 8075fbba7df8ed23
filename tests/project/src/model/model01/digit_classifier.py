"""Image classifiers on the digits: a small MLP and a small CNN.

python src/model/model01/digit_classifier.py
"""

from typing import Annotated, Any, Literal

from src.utils.experiment import experiment
from src.utils.batches import batch_loader
from src.utils.figures import confusion_matrix, most_confident_errors
from src.utils.metrics import LossAndAccuracy
from src.utils.run import Run
from src.utils.settings import TrainingSettings
from src.utils.training import best_checkpoint, best_score, tracked_trainer

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat, PositiveInt
from safetensors.torch import load_file
from torch import Tensor, nn


class Config(TrainingSettings):
    """The types of the settings; their values are in config/model/model01."""

    feature: str
    network: Literal["mlp", "cnn"]
    hidden: PositiveInt
    dropout: Annotated[float, Field(ge=0, lt=1)]
    learning_rate: PositiveFloat
    batch_size: PositiveInt


@experiment
def main(cfg: Config, run: Run) -> float:
    """Train a network, then test the checkpoint of its best epoch; returns its validation accuracy."""
    tensors = load_file(run.input("feature") / "digits.safetensors")
    kind = {"mlp": MLP, "cnn": CNN}[cfg.network]
    model = kind(hidden=cfg.hidden, dropout=cfg.dropout, learning_rate=cfg.learning_rate)
    train, val, test = (
        batch_loader(
            tensors[f"{split}_images"],
            tensors[f"{split}_labels"],
            batch_size=cfg.batch_size,
            shuffle=split == "train",
        )
        for split in ("train", "val", "test")
    )
    trainer = tracked_trainer(run, cfg)
    trainer.fit(model, train, val, ckpt_path=run.resume_from, weights_only=True)
    best = best_checkpoint(trainer)
    trainer.test(model, test, ckpt_path=best.best_model_path, weights_only=True, verbose=False)
    images, labels = tensors["test_images"], tensors["test_labels"]
    with torch.inference_mode():
        logits = model.cpu().eval()(images)
    run.figure("confusion_matrix", confusion_matrix(logits, labels))
    run.figure("most_confident_errors", most_confident_errors(images, logits, labels))
    return best_score(trainer)


class Classifier(pl.LightningModule):
    """Training, validation and test of a `network` from images uint8 [N, 28, 28] to logits [N, 10]."""

    network: nn.Module

    def __init__(self, hidden: int, dropout: float, learning_rate: float) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.example_input_array = torch.zeros(2, 28, 28, dtype=torch.uint8)
        self.metrics = {split: LossAndAccuracy() for split in ("train", "val", "test")}

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images.unsqueeze(1) - 128.0) / 128.0)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self.shared_step("train", batch)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.shared_step("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.shared_step("test", batch)

    def shared_step(self, split: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        logits = self(images)
        loss = F.cross_entropy(logits, labels)
        self.metrics[split].update(loss, logits, labels)
        return loss

    def on_train_epoch_end(self) -> None:
        self.log_dict(self.metrics["train"].compute("train"))

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self.metrics["val"].compute("val"))

    def on_test_epoch_end(self) -> None:
        self.log_dict(self.metrics["test"].compute("test"))

    def configure_optimizers(self) -> Any:
        rate = self.hparams["learning_rate"]
        optimizer = torch.optim.AdamW(self.parameters(), rate, fused=True)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step", "name": "lr"}]


class MLP(Classifier):
    """A multilayer perceptron with one hidden layer."""

    def __init__(self, **hyperparameters: Any) -> None:
        super().__init__(**hyperparameters)
        hidden, dropout = self.hparams["hidden"], self.hparams["dropout"]
        self.network = nn.Sequential(
            nn.Flatten(),
            nn.Linear(28 * 28, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, 10),
        )


class CNN(Classifier):
    """One convolution and one hidden dense layer."""

    def __init__(self, **hyperparameters: Any) -> None:
        super().__init__(**hyperparameters)
        hidden, dropout = self.hparams["hidden"], self.hparams["dropout"]
        self.network = nn.Sequential(
            nn.Conv2d(1, 8, 4, stride=4),  # [N, 8, 7, 7]
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8 * 7 * 7, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, 10),
        )


if __name__ == "__main__":
    main()
