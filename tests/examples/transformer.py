"""Lightning's example «transformer»: a language model whose batches come from worker processes.

python src/model/transformer/transformer.py
"""

from src.utils.experiment import experiment
from src.utils.run import Run
from src.utils.settings import TrainingSettings
from src.utils.training import best_score, tracked_trainer

import pytorch_lightning as pl
import torch
from pytorch_lightning.demos.transformer import Transformer
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, random_split

TEXT = "the quick brown fox jumps over the lazy dog while the small cat sleeps in the warm sun "


class Config(TrainingSettings):
    learning_rate: float
    num_workers: int


@experiment
def main(cfg: Config, run: Run) -> float:
    dataset = Text(TEXT * 8, block_size=8)
    train, val = random_split(dataset, [0.8, 0.2], torch.Generator().manual_seed(42))
    workers = {"num_workers": cfg.num_workers, "multiprocessing_context": "fork"}
    train_dataloader = DataLoader(train, batch_size=10, shuffle=True, **workers)
    model = LanguageModel(dataset.vocab_size, cfg.learning_rate)
    trainer = tracked_trainer(run, cfg)
    validation = DataLoader(val, batch_size=10)
    trainer.fit(model, train_dataloader, validation, ckpt_path=run.resume_from, weights_only=True)
    return best_score(trainer)


class LanguageModel(pl.LightningModule):
    def __init__(self, vocab_size: int, learning_rate: float):
        super().__init__()
        self.save_hyperparameters()
        self.model = Transformer(vocab_size, ninp=8, nhead=2, nhid=8, nlayers=1)

    def forward(self, inputs, target):
        return self.model(inputs, target)

    def training_step(self, batch, batch_idx):
        inputs, target = batch
        output = self(inputs, target)
        loss = F.nll_loss(output, target.view(-1))
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        inputs, target = batch
        output = self(inputs, target)
        loss = F.nll_loss(output, target.view(-1))
        self.log("val_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams["learning_rate"])


class Text(Dataset):
    """Blocks of words, as `pytorch_lightning.demos.WikiText2` has them."""

    def __init__(self, text: str, block_size: int):
        words = text.split()
        vocabulary = {word: number for number, word in enumerate(sorted(set(words)))}
        self.data = torch.tensor([vocabulary[word] for word in words])
        self.vocab_size, self.block_size = len(vocabulary), block_size

    def __len__(self):
        return len(self.data) - self.block_size

    def __getitem__(self, index):
        inputs = self.data[index : index + self.block_size]
        return inputs, self.data[index + 1 : index + 1 + self.block_size]


if __name__ == "__main__":
    main()
