"""Trials that end the whole sweep once, at a moment of their own. `test_interrupted_trials.py` copies it.

python src/model/model96/interrupted.py -m kind=train,parts
"""

import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Literal

from src.utils.experiment import experiment
from src.utils.run import Run
from src.utils.settings import TrainingSettings
from src.utils.training import best_score, tracked_trainer

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader


class Config(TrainingSettings):
    kind: Literal["train", "parts", "plain"]


@experiment
def main(cfg: Config, run: Run) -> float:
    if cfg.kind == "plain":
        return descend(cfg, run)
    if cfg.kind == "parts":
        return sum(train(cfg, run.part(f"fold{fold}"), fold) for fold in range(2)) / 2
    return train(cfg, run, run.fold)


def train(cfg: Config, run: Run, fold: int) -> float:
    monitor = "train_loss" if cfg.kind == "train" else "val_loss"
    model = Net()
    trainer = tracked_trainer(run, cfg, monitor, "min", [Interrupted(cfg.kind, fold)])
    rows = torch.rand(20, 3, generator=torch.Generator().manual_seed(fold))
    data = DataLoader(rows, 4, shuffle=True), DataLoader(torch.ones(4, 3) * fold)
    trainer.fit(model, *data, ckpt_path=run.resume_from, weights_only=True)
    return best_score(trainer)


def descend(cfg: Config, run: Run) -> float:
    """Without Lightning, with steps of its own: 10, 20 …"""
    weight, start = np.random.default_rng(0).normal(), 1
    if run.resume_from:
        state = np.load(run.resume_from / "state.npz")
        weight, start = float(state["weight"]), int(state["step"])
    for step in range(start, 6):
        interrupt(cfg.kind, 0, step)
        weight -= 0.1 * weight
        run.log({"loss": weight**2}, step)
        run.report(weight**2, 10 * step)
        if step % 2 == 0:
            run.save("state.npz", partial(np.savez, weight=weight, step=step + 1))
    return weight**2


class Interrupted(pl.Callback):
    def __init__(self, kind: str, fold: int):
        self.kind, self.fold = kind, fold

    def on_train_batch_start(self, trainer, *_):
        interrupt(self.kind, self.fold, trainer.global_step)


def interrupt(kind: str, fold: int, step: int) -> None:
    """Once at each place that STOP names, such as `plain-0-3`: end the sweep, or kill all its processes."""
    place = f"{kind}-{fold}-{step}"
    by = os.environ.get("STOP", "").split().count(place) and os.environ["BY"]
    if not by or Path(place).exists():
        return
    Path(place).touch()
    if by == "SIGKILL":
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os.kill(os.getpgrp(), signal.Signals[by])
    time.sleep(1)  # until the sweep has told this process


class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.3), nn.Linear(4, 1))

    def training_step(self, batch, index):
        loss = (self.network(batch).squeeze(1) - batch.mean(1)).square().mean()
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, index):
        loss = (self.network(batch).squeeze(1) - batch.mean(1)).square().mean()
        self.log("val_loss", loss)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.1)


if __name__ == "__main__":
    main()
