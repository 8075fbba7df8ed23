"""Lightning's example «text transformers»: a Hugging Face model is fine-tuned, by steps and not by epochs.

python src/model/huggingface/huggingface.py
"""

from src.utils.experiment import experiment
from src.utils.run import Run
from src.utils.settings import TrainingSettings
from src.utils.training import best_score, tracked_trainer

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from torch.utils.data import DataLoader, Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    default_data_collator,
    get_linear_schedule_with_warmup,
)


class Config(TrainingSettings):
    learning_rate: float
    warmup_steps: int


@experiment
def main(cfg: Config, run: Run) -> float:
    own = [
        EarlyStopping("val_loss", patience=20),
        ModelCheckpoint(run.folder / "steps", "{step}", every_n_train_steps=4, save_top_k=-1),
    ]
    model = GlueTransformer(cfg.learning_rate, cfg.warmup_steps)
    trainer = tracked_trainer(run, cfg, callbacks=own)
    train = DataLoader(Sentences(64), 4, shuffle=True, collate_fn=default_data_collator)
    val = DataLoader(Sentences(16), 8, collate_fn=default_data_collator)
    trainer.fit(model, train, val, ckpt_path=run.resume_from, weights_only=True)
    return best_score(trainer)


class Sentences(Dataset):
    """Sequences of token ids whose label is whether 7 is among them."""

    def __init__(self, size: int):
        self.tokens = torch.randint(8, 30, (size, 6), generator=torch.Generator().manual_seed(size))
        self.tokens[::2, 2] = 7

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        mask = torch.ones(6, dtype=torch.long)
        return {"input_ids": self.tokens[index], "attention_mask": mask, "labels": (index + 1) % 2}


class GlueTransformer(pl.LightningModule):
    def __init__(self, learning_rate: float = 2e-5, warmup_steps: int = 0):
        super().__init__()
        self.save_hyperparameters()
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
        config = BertConfig(vocab_size=32, num_attention_heads=2, num_labels=2, **sizes)
        self.model = BertForSequenceClassification(config)

    def forward(self, **inputs):
        return self.model(**inputs)

    def training_step(self, batch, batch_idx):
        outputs = self(**batch)
        return outputs[0]

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        val_loss, logits = self(**batch)[:2]
        preds = torch.argmax(logits, axis=1)
        self.log("val_loss", val_loss, prog_bar=True)
        self.log("val_acc", (preds == batch["labels"]).float().mean())

    def configure_optimizers(self):
        rate, warmup = self.hparams["learning_rate"], self.hparams["warmup_steps"]
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=rate)
        scheduler = get_linear_schedule_with_warmup(
            optimizer,
            num_warmup_steps=warmup,
            num_training_steps=self.trainer.estimated_stepping_batches,
        )
        return [optimizer], [{"scheduler": scheduler, "interval": "step", "frequency": 1}]


if __name__ == "__main__":
    main()
