"""Lightning's example «computer vision fine-tuning»: a backbone that is frozen, and unfrozen at milestones.

python src/model/finetuning/finetuning.py
"""

from src.utils.experiment import experiment
from src.utils.run import Run
from src.utils.settings import TrainingSettings
from src.utils.training import best_score, tracked_trainer

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BaseFinetuning, LearningRateMonitor
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import MultiStepLR
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import Accuracy


class Config(TrainingSettings):
    lr: float
    milestones: list[int]


@experiment
def main(cfg: Config, run: Run) -> float:
    generator = torch.Generator().manual_seed(42)
    images = torch.rand(96, 1, 8, 8, generator=generator)
    data = TensorDataset(images, (images.mean((1, 2, 3)) > 0.5).float())
    model = TransferLearningModel(milestones=list(cfg.milestones), lr=cfg.lr)
    finetuning = MilestonesFinetuning(list(cfg.milestones))
    trainer = tracked_trainer(run, cfg, callbacks=[finetuning, LearningRateMonitor()])
    train, val = DataLoader(data, batch_size=12, shuffle=True), DataLoader(data, batch_size=48)
    trainer.fit(model, train, val, ckpt_path=run.resume_from, weights_only=True)
    return best_score(trainer)


class MilestonesFinetuning(BaseFinetuning):
    """The last layers are trained from the first milestone on, all of them from the second."""

    def __init__(self, milestones: list[int], train_bn: bool = False):
        super().__init__()
        self.milestones, self.train_bn = milestones, train_bn

    def freeze_before_training(self, pl_module):
        self.freeze(modules=pl_module.feature_extractor, train_bn=self.train_bn)

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == self.milestones[0]:
            last = pl_module.feature_extractor[-3:]
            self.unfreeze_and_add_param_group(last, optimizer, train_bn=self.train_bn)
        elif epoch == self.milestones[1]:
            first = pl_module.feature_extractor[:-3]
            self.unfreeze_and_add_param_group(first, optimizer, train_bn=self.train_bn)


class TransferLearningModel(pl.LightningModule):
    def __init__(self, train_bn: bool = False, milestones=(1, 2), lr: float = 1e-3, lr_gamma=0.1):
        super().__init__()
        self.save_hyperparameters()
        self.feature_extractor = nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 8, 3),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
        )
        self.fc = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
        self.train_acc, self.valid_acc = Accuracy(task="binary"), Accuracy(task="binary")
        self.example_input_array = torch.zeros(1, 1, 8, 8)

    def forward(self, x):
        return self.fc(self.feature_extractor(x).squeeze(-1).squeeze(-1))

    def training_step(self, batch, batch_idx):
        x, y = batch
        y_logits = self(x)
        train_loss = F.binary_cross_entropy_with_logits(y_logits, y.view(-1, 1))
        self.train_acc(torch.sigmoid(y_logits).flatten(), y.int())
        self.log("train_acc", self.train_acc, prog_bar=True, on_step=False, on_epoch=True)
        return train_loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        y_logits = self(x)
        self.log("val_loss", F.binary_cross_entropy_with_logits(y_logits, y.view(-1, 1)))
        self.valid_acc(torch.sigmoid(y_logits).flatten(), y.int())
        self.log("val_acc", self.valid_acc, prog_bar=True)

    def configure_optimizers(self):
        parameters = filter(lambda p: p.requires_grad, self.parameters())
        optimizer = torch.optim.Adam(parameters, lr=self.hparams["lr"])
        milestones, gamma = self.hparams["milestones"], self.hparams["lr_gamma"]
        return [optimizer], [MultiStepLR(optimizer, milestones=milestones, gamma=gamma)]


if __name__ == "__main__":
    main()
