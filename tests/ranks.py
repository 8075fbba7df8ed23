"""A training whose processes draw other random numbers each, everywhere they can. Tests of DDP copy it.

python src/model/model95/ranks.py trainer.devices=2 trainer.strategy=ddp
"""

import os
import random
import signal
from typing import Any

from src.utils.experiment import experiment
from src.utils.run import Run
from src.utils.settings import TrainingSettings
from src.utils.training import tracked_trainer

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

draw = np.random.rand  # from the state that a run seeds


class Noisy(Dataset[Tensor]):
    """32 numbers, and other noise each time that one is read."""

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> Tensor:
        return torch.full((3,), index / 32) + 0.1 * torch.rand(3) + 0.1 * random.random()


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.3), nn.Linear(8, 1))

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        for _ in range(self.global_rank):  # from here on each process is elsewhere in each sequence
            torch.rand(1), draw(), random.random()
        noise = torch.rand(1) + draw() + random.random()
        loss = (self.network(batch).squeeze(1) - batch.mean(1) - 0.1 * noise).square().mean()
        self.log("train_loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def validation_step(self, batch: Tensor, index: int) -> None:
        self.log("val_loss", self.network(batch).mean(), sync_dist=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 0.01)


class Ending(pl.Callback):
    """Sends the signal BY to one process (WHO=1) or to all (WHO=all) before a batch of the second epoch."""

    def on_train_batch_start(self, trainer: pl.Trainer, *arguments: Any) -> None:
        who, by = os.environ.get("WHO"), os.environ.get("BY", "SIGTERM")
        if who is None or (trainer.current_epoch, arguments[-1]) != (1, 1):
            return
        if who == "all" or int(who) == trainer.global_rank:
            os.kill(os.getpid(), signal.Signals[by])


@experiment
def main(cfg: TrainingSettings, run: Run) -> float:
    trainer = tracked_trainer(run, cfg, "val_loss", "min", callbacks=[Ending()])
    workers: Any = {"num_workers": 1, "multiprocessing_context": "fork"}
    training = DataLoader(Noisy(), batch_size=4, shuffle=True, **workers)
    validation = DataLoader(Noisy(), batch_size=16)
    trainer.fit(Net(), training, validation, ckpt_path=run.resume_from, weights_only=True)
    print(f"process {trainer.global_rank} of {trainer.world_size}", flush=True)
    return float(trainer.callback_metrics["val_loss"])


if __name__ == "__main__":
    main()
