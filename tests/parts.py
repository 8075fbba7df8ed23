"""Three fits of Lightning in one run. `test_parts.py` copies it.

python src/model/model93/parts.py kind=early
"""

import os
import signal
from typing import Any, Literal

from src.utils.experiment import experiment
from src.utils.errors import UserError
from src.utils.run import Run
from src.utils.settings import TrainingSettings
from src.utils.training import best_checkpoint, best_score, tracked_trainer

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from torch import nn
from torch.utils.data import DataLoader


class Config(TrainingSettings):
    kind: Literal["fixed", "early", "steps", "mistakes"]
    rate: float


@experiment
def main(cfg: Config, run: Run) -> float:
    if cfg.kind == "mistakes":
        return mistakes(cfg, run)
    return sum(train(cfg, run.part(f"fold{fold}"), fold) for fold in range(3)) / 3


def train(cfg: Config, part: Run, fold: int) -> float:
    arguments: dict[str, Any] = {"max_epochs": -1, "max_steps": 7} if cfg.kind == "steps" else {}
    settings = cfg.model_copy(update={"trainer": cfg.trainer | arguments})
    own = [EarlyStopping("val_loss", patience=1)] if cfg.kind == "early" else []
    model, trainer = Net(cfg.rate), tracked_trainer(part, settings, callbacks=[Killed(fold), *own])
    rows = torch.rand(20, 3, generator=torch.Generator().manual_seed(fold))
    train, val = DataLoader(rows, 4, shuffle=True), DataLoader(torch.ones(4, 3) * fold)
    trainer.fit(model, train, val, ckpt_path=part.resume_from, weights_only=True)
    best = best_checkpoint(trainer).best_model_path
    part.tag(
        {
            f"fold{fold}.steps": str(trainer.global_step),
            f"fold{fold}.best": best.rpartition("checkpoints/")[2],
            f"fold{fold}.loss": str(float(trainer.callback_metrics["val_loss"])),
            f"fold{fold}.weights": str(float(model.network[0].weight.detach().double().sum())),
        }
    )
    return best_score(trainer)


def mistakes(cfg: Config, run: Run) -> float:
    run.part("fold0")
    tracked_trainer(run, cfg)
    errors = []
    for action in (
        lambda: run.part("../fold0"),
        lambda: run.part("fold0"),
        lambda: tracked_trainer(run, cfg),
    ):
        try:
            action()
        except UserError as error:
            errors.append(str(error))
    run.tag({"refused": "\n".join(errors)})
    return 0.0


class Killed(pl.Callback):
    """Ends the process at the fold and step that KILL names."""

    def __init__(self, fold: int):
        self.fold = fold

    def on_train_batch_start(self, trainer, *_):
        if os.environ.get("KILL") == f"{self.fold} {trainer.global_step}":
            os.kill(os.getpid(), signal.Signals[os.environ["BY"]])


class Net(pl.LightningModule):
    def __init__(self, rate: float):
        super().__init__()
        self.save_hyperparameters()
        self.network = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.3), nn.Linear(4, 1))

    def training_step(self, batch, index):
        loss = (self.network(batch).squeeze(1) - batch.mean(1)).square().mean()
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, index):
        loss = (self.network(batch).squeeze(1) - batch.mean(1)).square().mean()
        self.log("val_loss", loss)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), self.hparams["rate"])


if __name__ == "__main__":
    main()
