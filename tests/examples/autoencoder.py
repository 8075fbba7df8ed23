"""Lightning's example «autoencoder»: a loss, no accuracy, and an image of each epoch by a callback.

python src/model/autoencoder/autoencoder.py
"""

from src.utils.experiment import experiment
from src.utils.run import Run
from src.utils.settings import TrainingSettings
from src.utils.training import best_checkpoint, best_score, tracked_trainer

import matplotlib.figure
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split


class Config(TrainingSettings):
    hidden_dim: int
    learning_rate: float
    batch_size: int


@experiment
def main(cfg: Config, run: Run) -> float:
    data = ImageData(cfg.batch_size)
    model = LitAutoEncoder(cfg.hidden_dim, cfg.learning_rate)
    trainer = tracked_trainer(run, cfg, callbacks=[ImageSampler(run)])
    trainer.fit(model, datamodule=data, ckpt_path=run.resume_from, weights_only=True)
    best = best_checkpoint(trainer).best_model_path
    trainer.test(model, datamodule=data, ckpt_path=best, weights_only=True, verbose=False)
    predictions = trainer.predict(model, datamodule=data, ckpt_path=best, weights_only=True)
    run.log({"predicted": len(predictions)})
    return best_score(trainer)


class ImageSampler(pl.Callback):
    """Saves some reconstructed images after each epoch."""

    def __init__(self, run: Run):
        self.run = run

    @torch.no_grad()
    def on_train_epoch_end(self, trainer, pl_module):
        images = pl_module(torch.rand(4, 64)).view(32, 8)
        figure = matplotlib.figure.Figure((1, 2))
        figure.subplots().imshow(images)
        self.run.figure("reconstructed", figure)


class LitAutoEncoder(pl.LightningModule):
    def __init__(self, hidden_dim: int = 64, learning_rate: float = 1e-3):
        super().__init__()
        self.save_hyperparameters()
        self.encoder = nn.Sequential(nn.Linear(64, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, 3))
        self.decoder = nn.Sequential(nn.Linear(3, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, 64))
        self.example_input_array = torch.zeros(1, 64)

    def forward(self, x):
        return self.decoder(self.encoder(x))

    def training_step(self, batch, batch_idx):
        return self._common_step(batch, batch_idx, "train")

    def validation_step(self, batch, batch_idx):
        self._common_step(batch, batch_idx, "val")

    def test_step(self, batch, batch_idx):
        self._common_step(batch, batch_idx, "test")

    def predict_step(self, batch, batch_idx, dataloader_idx=None):
        x = self._prepare_batch(batch)
        return self(x)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams["learning_rate"])

    def _prepare_batch(self, batch):
        x, _ = batch
        return x.view(x.size(0), -1)

    def _common_step(self, batch, batch_idx, stage: str):
        x = self._prepare_batch(batch)
        loss = F.mse_loss(x, self(x))
        self.log(f"{stage}_loss", loss, on_step=True)
        return loss


class ImageData(pl.LightningDataModule):
    """160 images [8, 8] of one bright stripe."""

    def __init__(self, batch_size: int):
        super().__init__()
        generator = torch.Generator().manual_seed(42)
        rows = torch.randint(8, (160,), generator=generator)
        images = 0.1 * torch.rand(160, 8, 8, generator=generator)
        images[torch.arange(160), rows] += 0.9
        self.train, self.val, self.test = random_split(
            TensorDataset(images, rows), [96, 32, 32], generator=generator
        )
        self.batch_size = batch_size

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=self.batch_size)

    def test_dataloader(self):
        return DataLoader(self.test, batch_size=self.batch_size)

    def predict_dataloader(self):
        return DataLoader(self.test, batch_size=self.batch_size)


if __name__ == "__main__":
    main()
