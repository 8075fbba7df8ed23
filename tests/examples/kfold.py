"""Lightning's example «k-fold cross validation»: a loop over parts of one run, or one fold of a group.

python src/model/kfold/kfold.py             # three folds, one after the other
python src/model/kfold/kfold.py folds=3     # three runs
"""

from src.utils.experiment import experiment
from src.utils.run import Run
from src.utils.settings import TrainingSettings
from src.utils.training import best_score, tracked_trainer

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset, TensorDataset

FOLDS = 3


class Config(TrainingSettings):
    lr: float


@experiment
def main(cfg: Config, run: Run) -> float:
    if cfg.folds > 1:
        return fit_fold(cfg, run, run.fold)
    parts = [run.part(f"fold{fold}") for fold in range(FOLDS)]
    scores = [part.once(fit_fold, cfg, part, fold) for fold, part in enumerate(parts)]
    return sum(scores) / FOLDS


def fit_fold(cfg: Config, run: Run, fold: int) -> float:
    data = KFoldData(fold)
    trainer = tracked_trainer(run, cfg)
    trainer.fit(Classifier(cfg.lr), data, ckpt_path=run.resume_from, weights_only=True)
    return best_score(trainer)


class KFoldData(pl.LightningDataModule):
    def __init__(self, fold: int):
        super().__init__()
        generator = torch.Generator().manual_seed(42)
        x = torch.randn(90, 4, generator=generator)
        self.data = TensorDataset(x, (x.sum(1) > 0).long())
        self.rows = torch.randperm(90, generator=generator) % FOLDS
        self.fold = fold

    def part(self, held_out: bool):
        return Subset(self.data, torch.nonzero((self.rows == self.fold) == held_out).flatten())

    def train_dataloader(self):
        return DataLoader(self.part(False), batch_size=10, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.part(True), batch_size=10)


class Classifier(pl.LightningModule):
    def __init__(self, lr: float):
        super().__init__()
        self.save_hyperparameters()
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 2))
        self.example_input_array = torch.zeros(1, 4)

    def forward(self, x):
        return self.model(x)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        logits = self(batch[0])
        self.log("val_acc", (logits.argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), self.hparams["lr"])


if __name__ == "__main__":
    main()
