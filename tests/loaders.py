"""An experiment with other loaders and models than ours: what is random is random in every place it can
be. Tests of resuming copy it.

python src/model/model92/loaders.py case=workers
"""

import os
import signal
from pathlib import Path
from typing import Any, Literal

from src.utils.experiment import experiment
from src.utils.run import Run
from src.utils.settings import TrainingSettings
from src.utils.training import tracked_trainer

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, StepLR
from torch.utils.data import DataLoader, Dataset

VALUES: dict[str, Any] = {
    "plain": 0.25,
    "numpy": np.float64(0.25),
    "path": Path("weights"),
    "module": nn.Linear(1, 1),
}
ARGUMENTS = {"accumulate": {"accumulate_grad_batches": 2}, "validations": {"val_check_interval": 3}}


class Config(TrainingSettings):
    case: Literal["plain", "workers", "accumulate", "dict", "validations"]
    value: Literal["plain", "numpy", "path", "module", "nothing"]
    schedule: Literal["steps", "cosine"]


class Noisy(Dataset[Tensor]):
    """40 numbers, and other noise each time that one is read: 10 batches of 4."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Tensor:
        return torch.full((3,), index / 40) + 0.1 * torch.rand(3)


def loaders(case: str) -> Any:
    workers = {"num_workers": 2, "multiprocessing_context": "fork"} if case == "workers" else {}
    one: Any = DataLoader(Noisy(), batch_size=4, shuffle=True, **workers)
    return (
        {"a": one, "b": DataLoader(Noisy(), batch_size=9, shuffle=True)} if case == "dict" else one
    )


class Net(pl.LightningModule):
    def __init__(self, value: Any, schedule: str) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.3), nn.Linear(8, 1))

    def training_step(self, batch: Any, index: int) -> Tensor:
        batches = list(batch.values()) if isinstance(batch, dict) else [batch]
        errors = [self.network(one).squeeze(1) - one.mean(1) for one in batches]
        return torch.cat(errors).square().mean()

    def validation_step(self, batch: Tensor, index: int) -> None:
        self.log("val_loss", self.training_step(batch, index))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), 0.01)
        if self.hparams["schedule"] == "steps":
            return [optimizer], [StepLR(optimizer, 1, 0.9)]
        steps = int(self.trainer.estimated_stepping_batches)
        return [optimizer], [{"scheduler": CosineAnnealingLR(optimizer, steps), "interval": "step"}]


class Nothing(Net):
    """Without hyperparameters."""

    def __init__(self, wide: int) -> None:
        pl.LightningModule.__init__(self)
        self.network = nn.Linear(wide, 1)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters())


class Stopping(pl.Callback):
    """Stops the second epoch at the batch that STOP names, by the signal that BY names."""

    def on_train_batch_start(self, trainer: pl.Trainer, *arguments: Any) -> None:
        if trainer.current_epoch == 1 and os.environ.get("STOP") == str(arguments[-1]):
            os.kill(os.getpid(), signal.Signals[os.environ["BY"]])


@experiment
def main(cfg: Config, run: Run) -> float:
    trainer_settings = {**cfg.trainer, **ARGUMENTS.get(cfg.case, {})}
    settings = cfg.model_copy(update={"trainer": trainer_settings})
    trainer = tracked_trainer(run, settings, "val_loss", "min", callbacks=[Stopping()])
    model = Nothing(wide=3) if cfg.value == "nothing" else Net(VALUES[cfg.value], cfg.schedule)
    validation = DataLoader(Noisy(), batch_size=20)
    trainer.fit(model, loaders(cfg.case), validation, ckpt_path=run.resume_from, weights_only=True)
    return float(trainer.callback_metrics["val_loss"])


if __name__ == "__main__":
    main()
