"""The digits as tensors with a validation split.

    python src/feature/feature01/digit_tensors.py

Output: digits.safetensors, with
{train,val,test}_images uint8 [N, 28, 28] and {train,val,test}_labels int64 [N].
"""

import logging
from typing import Annotated

from src.utils.experiment import experiment
from src.utils.run import Run
from src.utils.settings import StageSettings

import numpy as np
from pydantic import Field
from safetensors.numpy import save_file

log = logging.getLogger(__name__)


class Config(StageSettings):
    """The types of the settings; their values are in config/feature/feature01."""

    dataset: str
    val_fraction: Annotated[float, Field(gt=0, lt=1)]


@experiment
def main(cfg: Config, run: Run) -> None:
    """Split off the validation images, and save all splits."""
    arrays = dict(np.load(run.input("dataset") / "digits.npz"))
    cut = round(len(arrays["train_labels"]) * (1 - cfg.val_fraction))
    for kind in ("images", "labels"):
        arrays[f"train_{kind}"], arrays[f"val_{kind}"] = np.split(arrays[f"train_{kind}"], [cut])
    save_file(arrays, run.output / "digits.safetensors")
    sizes = {split: len(arrays[f"{split}_labels"]) for split in ("train", "val", "test")}
    run.log({f"{split}_images": size for split, size in sizes.items()})
    log.info("%s: %s train, %s val and %s test images", run.experiment, *sizes.values())


if __name__ == "__main__":
    main()
