"""Noisy images of ten symbols: a dataset that needs no download, and is learned in two epochs.

    python src/dataset/dataset01/digits.py

Output: digits.npz, with {train,test}_images uint8 [N, 28, 28] and {train,test}_labels int64 [N].
"""

import logging
from pathlib import Path
from typing import Literal

from src.utils.experiment import experiment
from src.utils.run import Run
from src.utils.settings import StageSettings

import numpy as np
from pydantic import NonNegativeFloat

log = logging.getLogger(__name__)
SIZES = {"train": 5000, "test": 1000}  # images in each split


class Config(StageSettings):
    """The types of the settings; their values are in config/dataset/dataset01."""

    source: Literal["auto", "sample", "local"]
    noise: NonNegativeFloat  # standard deviation, in pixel values of 0 to 255
    folder: Path | None  # of another digits.npz, for source=local

    def paths_read(self) -> list[Path]:
        """The folder is read with source=local only."""
        return [self.folder] if self.source == "local" and self.folder else []


@experiment
def main(cfg: Config, run: Run) -> None:
    """Make the images, or copy those of another folder."""
    local = cfg.source == "local" and cfg.folder is not None
    arrays = dict(np.load(cfg.folder / "digits.npz")) if local else noisy_images(cfg.noise)
    np.savez(run.output / "digits.npz", **arrays)
    source = "local" if local else "sample"
    run.tag_data(source=source)
    sizes = (len(arrays[f"{split}_labels"]) for split in SIZES)
    log.info("%s: %s train and %s test images (%s)", run.experiment, *sizes, source)


def noisy_images(noise: float) -> dict[str, np.ndarray]:
    """Draw images [N, 28, 28] of ten symbols, with labels [N]."""
    random = np.random.default_rng(0)
    symbols = random.normal(128, 20, (10, 7, 7)).repeat(4, axis=1).repeat(4, axis=2)
    arrays = {}
    for split, size in SIZES.items():
        labels = np.arange(size) % 10
        noisy = symbols[labels] + random.normal(0, noise, (size, 28, 28))
        arrays[f"{split}_images"] = noisy.clip(0, 255).astype(np.uint8)
        arrays[f"{split}_labels"] = labels
    return arrays


if __name__ == "__main__":
    main()
