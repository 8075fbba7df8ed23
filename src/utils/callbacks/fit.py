"""What is done once, when a model begins to train."""

from collections.abc import Iterator

from src.utils.errors import UserError

import pytorch_lightning as pl
from torch.nn import Module, ModuleDict, ModuleList

ONE_TRAINING = (
    "a run holds one training, else it could not be resumed: start one run a fold "
    "(fold=0, and -m fold=0,1,2 for all of them), and fine-tune in a second run with "
    "resume_run=ID fork=true, which begins with the weights of the first"
)


class OneFit(pl.Callback):
    """Refuses a second `fit`: checkpoints, metrics and steps of two would be mixed."""

    def __init__(self) -> None:
        self.begun = False

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.begun:
            raise UserError(ONE_TRAINING)
        self.begun = True


class Compile(pl.Callback):
    """Compiles the networks of the module in place, so that the names of the weights stay."""

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            for network in list(_networks(module)) or [module]:
                network.compile()


def _networks(module: Module) -> Iterator[Module]:
    """The parts with weights that are called as functions, which containers are not."""
    for part in module.children():
        if isinstance(part, ModuleDict | ModuleList):
            yield from _networks(part)
        elif any(True for _ in part.parameters()):
            yield part
