"""An experiment with models of several kinds, as other people write them. `test_any_model.py` copies it.

python src/model/model91/models.py kind=gan
"""

import os
import signal
from dataclasses import dataclass
from typing import Literal

from src.utils.experiment import experiment
from src.utils.errors import UserError
from src.utils.run import Run
from src.utils.settings import TrainingSettings
from src.utils.training import best_checkpoint, best_score, tracked_trainer

import optuna
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from torch import nn
from torch.utils.data import DataLoader, IterableDataset


class Config(TrainingSettings):
    kind: Literal[
        "gan",
        "language",
        "interval",
        "seldom",
        "unknown",
        "twice",
        "folds",
        "pruned",
        "alone",
        "diverging",
        "training",
        "modes",
        "averaged",
        "timed",
    ]
    dropout: float


@dataclass
class Sample:
    x: torch.Tensor
    vocabulary: torch.Tensor
    name: str


@experiment
def main(cfg: Config, run: Run) -> float:
    run.tag({"kind": cfg.kind})
    return globals()[cfg.kind](cfg, run)


def changed(cfg: Config, **trainer) -> Config:
    return cfg.model_copy(update={"trainer": cfg.trainer | trainer})


def gan(cfg: Config, run: Run) -> float:
    trainer = tracked_trainer(run, cfg)
    trainer.fit(Gan(), DataLoader([{"real": torch.ones(1)}] * 12, batch_size=4))
    run.tag({"checkpoint": best_checkpoint(trainer).best_model_path})
    return best_score(trainer)


def language(cfg: Config, run: Run) -> float:
    trainer = tracked_trainer(run, changed(cfg, max_epochs=-1, max_steps=7), "val_loss", "min")
    trainer.fit(Language(), DataLoader(Text(), batch_size=None))
    run.tag({"checkpoint": best_checkpoint(trainer).best_model_path})
    return best_score(trainer)


def interval(cfg: Config, run: Run) -> float:
    own = [
        ModelCheckpoint(run.folder / "own", "{step}", monitor="val_loss"),
        ModelCheckpoint(run.folder / "own", "newest"),
        EarlyStopping("val_loss", patience=100),
        LearningRateMonitor(),
        Killed(),
    ]
    trainer = tracked_trainer(
        run, changed(cfg, val_check_interval=2), "val_loss", "min", callbacks=own
    )
    model = Regression()
    trainer.fit(model, train(), validation(), ckpt_path=run.resume_from, weights_only=True)
    trainer.test(model, validation(), verbose=False)
    run.tag({"best": str(best_score(trainer))})
    return best_score(trainer)


def seldom(cfg: Config, run: Run) -> float:
    trainer = tracked_trainer(
        run, changed(cfg, max_epochs=4, check_val_every_n_epoch=2), "val_loss", "min"
    )
    trainer.fit(Regression(), train(), validation())
    return best_score(trainer)


def unknown(cfg: Config, run: Run) -> float:
    trainer = tracked_trainer(run, cfg, "val_acc", "max")
    return refused(run, lambda: trainer.fit(Regression(), train(), validation()))


def twice(cfg: Config, run: Run) -> float:
    trainer = tracked_trainer(run, cfg, "val_loss", "min")
    trainer.fit(Regression(), train(), validation())
    return refused(run, lambda: trainer.fit(Regression(), train(), validation()))


def folds(cfg: Config, run: Run) -> float:
    tracked_trainer(run, cfg, "val_loss", "min").fit(Regression(), train(), validation())
    return refused(run, lambda: tracked_trainer(run, cfg, "val_loss", "min"))


def diverging(cfg: Config, run: Run) -> float:
    model, trainer = Gan(), tracked_trainer(run, cfg)
    nn.init.constant_(model.critic.weight, float("nan"))
    return refused(run, lambda: trainer.fit(model, DataLoader([{"real": torch.ones(1)}] * 8)))


def training(cfg: Config, run: Run) -> float:
    trainer = tracked_trainer(run, changed(cfg, val_check_interval=2), "train_loss", "min")
    trainer.fit(Regression(), train(), validation())
    run.tag({"best": str(best_score(trainer))})
    return best_score(trainer)


def modes(cfg: Config, run: Run) -> float:
    errors = []
    for name, model, own in (
        ("first", Regression(), [EarlyStopping("val_loss", mode="max")]),
        ("second", Plateau(), []),
    ):
        trainer = tracked_trainer(run.part(name), cfg, "val_loss", "min", callbacks=own)
        try:
            trainer.fit(model, train(), validation())
        except UserError as error:
            errors.append(str(error))
    run.tag({"refused": "\n".join(errors)})
    return 0.0


def averaged(cfg: Config, run: Run) -> float:
    own = [StochasticWeightAveraging(0.1, swa_epoch_start=1)]
    trainer = tracked_trainer(run, cfg, "val_loss", "min", callbacks=own)
    trainer.fit(Plain(), train(), validation())
    return best_score(trainer)


def timed(cfg: Config, run: Run) -> float:
    trainer = tracked_trainer(run, cfg, "val_loss", "min")
    trainer.fit(Plain(), train(), validation())
    return best_score(trainer)


def pruned(cfg: Config, run: Run) -> float:
    raise optuna.TrialPruned("as LightGBM's callback does")


def alone(cfg: Config, run: Run) -> float:
    run.log({"auc": 0.75})
    return 0.75


def refused(run: Run, action) -> float:
    try:
        action()
    except UserError as error:
        run.tag({"refused": str(error)})
    return 0.0


class Killed(pl.Callback):
    """Ends the process when the step KILL is saved as the best."""

    def on_fit_start(self, trainer, module):
        save, step = trainer.save_checkpoint, int(os.environ.get("KILL", "-1"))

        def and_die(path, *arguments):
            save(path, *arguments)
            if trainer.global_step == step and str(path).endswith("best.ckpt"):
                os.kill(os.getpid(), signal.SIGKILL)

        trainer.save_checkpoint = and_die


class Gan(pl.LightningModule):
    """Optimizes by hand, returns nothing, has two optimizers, a list of scores, and no validation."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.critic = nn.Linear(1, 1), nn.Linear(1, 1)
        self.scores = []

    def training_step(self, batch, index):
        for optimizer, part in zip(self.optimizers(), (self.generator, self.critic), strict=True):
            loss = part(batch["real"]).square().mean()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        self.scores.append(loss.item())
        self.log("critic_loss", loss)
        self.log("recall@10", 0.5, on_epoch=True, on_step=False)

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), 0.01) for part in (self.generator, self.critic)]


class Text(IterableDataset):
    """Endless batches of another length each."""

    def __iter__(self):
        for length in range(1, 1000):
            yield Sample(torch.ones(length, 1), torch.ones(100), "text")


class Language(pl.LightningModule):
    """Counts steps, not epochs, and skips some."""

    def __init__(self):
        super().__init__()
        self.network = nn.Linear(1, 1)

    def training_step(self, batch, index):
        return None if index == 2 else {"loss": self.network(batch.x).square().mean()}

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters())


def train():
    return DataLoader([(torch.ones(1), torch.ones(3, 1))] * 16, batch_size=4)  # 4 steps an epoch


def validation():
    return DataLoader([torch.ones(1)] * 2)


class Regression(pl.LightningModule):
    """Its validation loss is lowest after six steps: in the middle of the second epoch."""

    def __init__(self):
        super().__init__()
        self.network = nn.Linear(1, 1)

    def training_step(self, batch, index):
        loss = self.network(batch[0]).square().mean()
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, index):
        self.log("val_loss", float(abs(self.global_step - 6)))

    def test_step(self, batch, index):
        self.log("test_loss", 1.0)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), 0.1)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Plain(Regression):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


class Plateau(Regression):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.01)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max")
        return [optimizer], [{"scheduler": schedule, "monitor": "val_loss"}]


if __name__ == "__main__":
    main()
