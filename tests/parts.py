"""Three fits in one run: an experiment with parts, in Lightning or in plain code. `test_parts.py` copies it.

python src/model/model93/parts.py kind=lightning
"""

# ruff: noqa: NPY002  the setting `seed` seeds NumPy's global generator
import os
import signal
from functools import partial
from typing import Literal

from src.utils.experiment import experiment
from src.utils.run import Run
from src.utils.settings import TrainingSettings
from src.utils.training import best_checkpoint, best_score, tracked_trainer

import matplotlib.figure
import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from torch import nn
from torch.utils.data import DataLoader

FOLDS = 3


class Config(TrainingSettings):
    kind: Literal["lightning", "stopping", "steps", "plain", "again", "name", "twice"]
    rate: float


@experiment
def main(cfg: Config, run: Run) -> float:
    if cfg.kind == "name":
        run.part("../fold0")
    if cfg.kind == "again":
        run.part("fold0"), run.part("fold0")
    if cfg.kind == "twice":
        tracked_trainer(run, cfg), tracked_trainer(run, cfg)
    losses = []
    for fold in range(FOLDS):
        part = run.part(f"fold{fold}")
        if cfg.kind == "plain":
            losses.append(part.once(descend, cfg, part, fold))
        else:
            losses.append(train(cfg, part, fold))
    return sum(losses) / FOLDS


def descend(cfg: Config, part: Run, fold: int) -> float:
    """Ten steps of a random descent, each saved; the number of calls is in a tag."""
    part.tag({f"began.{fold}": str(bool(part.resume_from))})
    weight, start = np.random.normal(), 0
    if part.resume_from:
        state = np.load(part.resume_from / "state.npz")
        weight, start = float(state["weight"]), int(state["step"])
    for step in range(start, 10):
        kill(fold, step)
        weight -= cfg.rate * (weight - fold)
        part.log({"loss": (weight - fold) ** 2}, step)
        part.save("state.npz", partial(np.savez, weight=weight, step=step + 1))
        part.report((weight - fold) ** 2, step)
    part.figure("line", matplotlib.figure.Figure((1, 1)))
    return (weight - fold) ** 2


def train(cfg: Config, part: Run, fold: int) -> float:
    arguments = {"max_epochs": -1, "max_steps": 7} if cfg.kind == "steps" else {}
    settings = cfg.model_copy(update={"trainer": cfg.trainer | arguments})
    own = [EarlyStopping("val_loss", patience=1)] if cfg.kind == "stopping" else []
    trainer = tracked_trainer(part, settings, callbacks=[Killed(fold), *own])
    data = DataLoader(
        torch.rand(20, 3, generator=torch.Generator().manual_seed(fold)), 4, shuffle=True
    )
    model = Net(cfg.rate)
    trainer.fit(
        model,
        data,
        DataLoader(torch.ones(4, 3) * fold),
        ckpt_path=part.resume_from,
        weights_only=True,
    )
    part.tag(
        {
            f"fold{fold}": f"{trainer.global_step} {best_checkpoint(trainer).best_model_path[-16:]}",
            f"sum{fold}": str(float(model.network[0].weight.detach().double().sum())),
            f"metric{fold}": str(float(trainer.callback_metrics["val_loss"])),
        }
    )
    return best_score(trainer)


def kill(fold: int, step: int) -> None:
    if os.environ.get("KILL") == f"{fold} {step}":
        os.kill(os.getpid(), signal.Signals[os.environ.get("BY", "SIGKILL")])


class Killed(pl.Callback):
    """Kills the process at the fold and step that KILL names."""

    def __init__(self, fold: int):
        self.fold = fold

    def on_train_batch_start(self, trainer, *_):
        kill(self.fold, trainer.global_step)


class Net(pl.LightningModule):
    def __init__(self, rate: float):
        super().__init__()
        self.save_hyperparameters()
        self.network = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.3), nn.Linear(4, 1))

    def training_step(self, batch, index):
        return (self.network(batch).squeeze(1) - batch.mean(1)).square().mean()

    def validation_step(self, batch, index):
        self.log("val_loss", self.training_step(batch, index))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), self.hparams["rate"])


if __name__ == "__main__":
    main()
