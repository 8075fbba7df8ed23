"""Lightning's example «DCGAN»: two networks, two optimizers, optimized by hand; no validation.

python src/model/gan/gan.py
"""

from src.utils.experiment import experiment
from src.utils.run import Run
from src.utils.settings import TrainingSettings
from src.utils.training import best_score, tracked_trainer

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Config(TrainingSettings):
    beta1: float
    learning_rate: float
    latent_dim: int


@experiment
def main(cfg: Config, run: Run) -> float:
    images = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(42)) * 2 - 1
    labels = torch.zeros(64)
    model = DCGAN(cfg.beta1, cfg.learning_rate, cfg.latent_dim)
    trainer = tracked_trainer(run, cfg)
    data = DataLoader(TensorDataset(images, labels), batch_size=8, shuffle=True)
    trainer.fit(model, data, ckpt_path=run.resume_from, weights_only=True)
    return best_score(trainer)


class DCGAN(pl.LightningModule):
    def __init__(self, beta1: float = 0.5, learning_rate: float = 0.0002, latent_dim: int = 100):
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.generator = nn.Sequential(
            nn.ConvTranspose2d(latent_dim, 8, 4, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(8, 1, 4, stride=2, padding=1, bias=False),
            nn.Tanh(),
        )
        self.discriminator = nn.Sequential(
            nn.Conv2d(1, 8, 4, stride=2, padding=1, bias=False),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(8, 1, 4, bias=False),
            nn.Sigmoid(),
        )
        self.criterion = nn.BCELoss()

    def configure_optimizers(self):
        betas, rate = (self.hparams["beta1"], 0.999), self.hparams["learning_rate"]
        opt_disc = torch.optim.Adam(self.discriminator.parameters(), lr=rate, betas=betas)
        opt_gen = torch.optim.Adam(self.generator.parameters(), lr=rate, betas=betas)
        return [opt_disc, opt_gen], []

    def forward(self, noise):
        return self.generator(noise.view(*noise.shape, 1, 1))

    def training_step(self, batch, batch_idx):
        real, _ = batch
        opt_disc, opt_gen = self.optimizers()

        self.toggle_optimizer(opt_disc)
        loss_disc = self._disc_loss(real)
        self.log("loss_disc", loss_disc, on_epoch=True)
        opt_disc.zero_grad()
        self.manual_backward(loss_disc)
        opt_disc.step()
        self.untoggle_optimizer(opt_disc)

        self.toggle_optimizer(opt_gen)
        loss_gen = self._gen_loss(real)
        self.log("loss_gen", loss_gen, on_epoch=True)
        opt_gen.zero_grad()
        self.manual_backward(loss_gen)
        opt_gen.step()
        self.untoggle_optimizer(opt_gen)

    def _disc_loss(self, real):
        real_pred = self.discriminator(real).flatten()
        real_loss = self.criterion(real_pred, torch.ones_like(real_pred))
        fake_pred = self._fake_pred(real)
        return real_loss + self.criterion(fake_pred, torch.zeros_like(fake_pred))

    def _gen_loss(self, real):
        fake_pred = self._fake_pred(real)
        return self.criterion(fake_pred, torch.ones_like(fake_pred))

    def _fake_pred(self, real):
        noise = torch.randn(len(real), self.hparams["latent_dim"], device=self.device)
        return self.discriminator(self(noise)).flatten()


if __name__ == "__main__":
    main()
