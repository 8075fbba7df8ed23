"""Image classifiers on MNIST: an MLP and a small CNN.

    poetry run python src/model/model01/image_classifier_models.py
    poetry run python src/model/model01/image_classifier_models.py network=mlp learning_rate=0.003
    poetry run python src/model/model01/image_classifier_models.py -m 'learning_rate=interval(0.001,0.002)'

The whole experiment is in this file and in config/model/model01. Copy the two folders to start the next one.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from src.utils.experiment import experiment
from src.utils.batches import Batch, batch_loader
from src.utils.figures import confusion_matrix, most_confident_errors
from src.utils.metrics import LossAndAccuracy
from src.utils.run import Run
from src.utils.settings import TrainingSettings
from src.utils.training import best_checkpoint, best_score, tracked_trainer

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader


class Config(TrainingSettings):
    """The types of the settings; their values are in config/model/model01."""

    feature: str
    network: Literal["mlp", "cnn"]
    hidden: PositiveInt
    dropout: Annotated[float, Field(ge=0, lt=1)]
    learning_rate: PositiveFloat
    weight_decay: NonNegativeFloat
    batch_size: PositiveInt


@experiment
def main(cfg: Config, run: Run) -> float:
    """Train a network, then test the checkpoint of its best epoch.

    Returns:
        The objective of a search: the best value of `monitor`, here the validation accuracy.
    """
    data = MNIST(run.input("feature"), cfg.batch_size)
    model = {"mlp": MLP, "cnn": CNN}[cfg.network](
        mean=data.mean,
        std=data.std,
        hidden=cfg.hidden,
        dropout=cfg.dropout,
        learning_rate=cfg.learning_rate,
        weight_decay=cfg.weight_decay,
    )

    trainer = tracked_trainer(run, cfg)
    trainer.fit(model, data, ckpt_path=run.resume_from, weights_only=True)
    best = best_checkpoint(trainer)
    trainer.test(model, data, ckpt_path=best.best_model_path, weights_only=True, verbose=False)

    images, labels = data.split("test")
    logits = model.predict(images)
    run.figure("confusion_matrix", confusion_matrix(logits, labels))
    run.figure("most_confident_errors", most_confident_errors(images, logits, labels))
    return best_score(trainer)


class MNIST(pl.LightningDataModule):
    """Batches of images uint8 [B, 28, 28] and labels int64 [B], from tensors on the training device."""

    def __init__(self, folder: Path, batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.tensors = load_file(folder / "mnist.safetensors")
        self.mean, self.std = float(self.tensors["mean"]), float(self.tensors["std"])

    def split(self, name: str) -> Batch:
        """All images [N, 28, 28] and labels [N] of `train`, `val` or `test`."""
        return self.tensors[f"{name}_images"], self.tensors[f"{name}_labels"]

    def loader(self, name: str, shuffle: bool = False) -> DataLoader[Batch]:
        assert self.trainer is not None
        device = self.trainer.strategy.root_device
        on_device = (tensor.to(device) for tensor in self.split(name))
        return batch_loader(*on_device, batch_size=self.batch_size, shuffle=shuffle)

    def train_dataloader(self) -> DataLoader[Batch]:
        return self.loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self.loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        return self.loader("test")


class ImageClassifier(pl.LightningModule):
    """Training, validation and test of a `network` from images uint8 [N, 28, 28] to logits [N, 10].

    Args:
        mean, std: of the training pixels, which normalise the images.
        hidden: units of the dense layers.
        dropout: the probability that a unit is set to zero.
        learning_rate: the peak of a one-cycle schedule.
        weight_decay: of AdamW.
    """

    network: nn.Module

    def __init__(
        self,
        mean: float,
        std: float,
        hidden: int,
        dropout: float,
        learning_rate: float,
        weight_decay: float,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.example_input_array = torch.zeros(2, 28, 28, dtype=torch.uint8)  # for `lab export`
        self.metrics = {split: LossAndAccuracy() for split in ("train", "val", "test")}

    def forward(self, images: Tensor) -> Tensor:
        pixels = (images - self.hparams["mean"]) / self.hparams["std"]
        logits: Tensor = self.network(pixels.unsqueeze(1))
        return logits

    @torch.inference_mode()
    def predict(self, images: Tensor, batch_size: int = 1000) -> Tensor:
        """Return the logits [N, 10], on the CPU, of any number of images."""
        self.eval()
        chunks = images.split(batch_size)
        return torch.cat([self(chunk.to(self.device)).float().cpu() for chunk in chunks])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.shared_step("train", batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.shared_step("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.shared_step("test", batch)

    def shared_step(self, split: str, batch: Batch) -> Tensor:
        """Return the mean loss [] of a batch, and add it to the metrics of its split."""
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
        rate, decay = self.hparams["learning_rate"], self.hparams["weight_decay"]
        optimizer = torch.optim.AdamW(self.parameters(), rate, weight_decay=decay, fused=True)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class MLP(ImageClassifier):
    """A multilayer perceptron with two hidden layers."""

    def __init__(self, **hyperparameters: Any) -> None:
        super().__init__(**hyperparameters)
        hidden, dropout = self.hparams["hidden"], self.hparams["dropout"]
        self.network = nn.Sequential(
            nn.Flatten(),
            nn.Linear(28 * 28, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, 10),
        )


class CNN(ImageClassifier):
    """Two convolutions, each followed by max pooling, and one hidden dense layer."""

    def __init__(self, **hyperparameters: Any) -> None:
        super().__init__(**hyperparameters)
        hidden, dropout = self.hparams["hidden"], self.hparams["dropout"]
        self.network = nn.Sequential(
            nn.Conv2d(1, 32, 5, padding=2),  # [N, 32, 28, 28]
            nn.MaxPool2d(2),  # before BatchNorm2d and ReLU, which then do a quarter of the work
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),  # [N, 64, 14, 14]
            nn.MaxPool2d(2),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(64 * 7 * 7, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, 10),
        ).to(memory_format=torch.channels_last)  # twice as fast on a CPU


if __name__ == "__main__":
    main()
