"""Lightning's example «semantic segmentation»: a U-Net, with torchmetrics.

python src/model/segmentation/segmentation.py
"""

from src.utils.experiment import experiment
from src.utils.run import Run
from src.utils.settings import TrainingSettings
from src.utils.training import best_score, tracked_trainer

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

CLASSES, VOID = 3, 250


class Config(TrainingSettings):
    lr: float
    bilinear: bool


@experiment
def main(cfg: Config, run: Run) -> float:
    model = SegModel(cfg.lr, cfg.bilinear)
    trainer = tracked_trainer(run, cfg)
    train, val = DataLoader(Scenes(32), 4, shuffle=True), DataLoader(Scenes(16), 4)
    trainer.fit(model, train, val, ckpt_path=run.resume_from, weights_only=True)
    return best_score(trainer)


class Scenes(Dataset):
    """Images [3, 16, 16] of a square before a background, and the class of each pixel."""

    def __init__(self, size: int):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        image, mask = torch.zeros(3, 16, 16), torch.zeros(16, 16, dtype=torch.long)
        row, kind = index % 8, 1 + index % 2
        image[kind, row : row + 6, 4:10] = 1.0
        mask[row : row + 6, 4:10] = kind
        mask[-1] = VOID
        return image + 0.1 * torch.rand(3, 16, 16), mask


class SegModel(pl.LightningModule):
    def __init__(self, lr: float, bilinear: bool):
        super().__init__()
        self.save_hyperparameters()
        self.net = UNet(bilinear)
        metrics = MetricCollection(
            {
                "acc": MulticlassAccuracy(CLASSES, ignore_index=VOID, average="micro"),
                "iou": MulticlassJaccardIndex(CLASSES, ignore_index=VOID),
            }
        )
        self.train_metrics = metrics.clone(prefix="train_")
        self.val_metrics = metrics.clone(prefix="val_")
        self.example_input_array = torch.zeros(1, 3, 16, 16)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_nb):
        img, mask = batch
        out = self(img)
        loss = F.cross_entropy(out, mask, ignore_index=VOID)
        self.train_metrics.update(out, mask)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return {"loss": loss}

    def on_train_epoch_end(self):
        self.log_dict(self.train_metrics.compute())
        self.train_metrics.reset()

    def validation_step(self, batch, batch_idx):
        img, mask = batch
        out = self(img)
        self.val_metrics.update(out, mask)
        self.log("val_loss", F.cross_entropy(out, mask, ignore_index=VOID))

    def on_validation_epoch_end(self):
        self.log_dict(self.val_metrics.compute())
        self.val_metrics.reset()

    def configure_optimizers(self):
        opt = torch.optim.Adam(self.net.parameters(), lr=self.hparams["lr"])
        sch = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=10)
        return [opt], [sch]


class UNet(nn.Module):
    def __init__(self, bilinear: bool):
        super().__init__()
        self.first, self.down = double_conv(3, 4), nn.Sequential(nn.MaxPool2d(2), double_conv(4, 8))
        up = nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(8, 4, 1))
        self.up = up if bilinear else nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.last = nn.Sequential(double_conv(8, 4), nn.Conv2d(4, CLASSES, 1))

    def forward(self, x):
        first = self.first(x)
        return self.last(torch.cat([first, self.up(self.down(first))], 1))


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


if __name__ == "__main__":
    main()
