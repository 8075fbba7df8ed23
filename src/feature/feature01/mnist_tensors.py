"""MNIST as tensors ready for training, with fixed splits.

    poetry run python src/feature/feature01/mnist_tensors.py
    poetry run python src/feature/feature01/mnist_tensors.py val_fraction=0.2 seed=1

Output: mnist.safetensors, a file that executes no code when it is loaded.

    {train,val,test}_images    uint8 [N, 28, 28]
    {train,val,test}_labels    int64 [N]
    mean, std                  float32 [], of the training pixels, from 0 to 255
"""

import logging
from pathlib import Path
from typing import Annotated

from src.utils.experiment import experiment
from src.utils.errors import UserError
from src.utils.idx import read_idx
from src.utils.run import Run
from src.utils.settings import StageSettings

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from safetensors.numpy import save_file

log = logging.getLogger(__name__)
Arrays = dict[str, NDArray[np.generic]]


class Config(StageSettings):
    """The types of the settings; their values are in config/feature/feature01."""

    dataset: str
    val_fraction: Annotated[float, Field(gt=0, lt=1)]


@experiment
def main(cfg: Config, run: Run) -> None:
    """Split the training images, and save all splits with the pixel statistics."""
    images, labels = read_split(run.input("dataset"), "train")
    train, val = stratified_split(labels, cfg.val_fraction, cfg.seed)
    tensors: Arrays = {
        "train_images": images[train],
        "train_labels": labels[train],
        "val_images": images[val],
        "val_labels": labels[val],
    }
    tensors["test_images"], tensors["test_labels"] = read_split(run.input("dataset"), "t10k")
    pixels = tensors["train_images"].astype(np.float64)  # of the training split only
    tensors["mean"], tensors["std"] = np.float32(pixels.mean()), np.float32(pixels.std())
    save_file(
        {name: np.ascontiguousarray(array) for name, array in tensors.items()},
        run.output / "mnist.safetensors",
    )

    sizes = {split: len(tensors[f"{split}_labels"]) for split in ("train", "val", "test")}
    run.log({f"{split}_images": size for split, size in sizes.items()})
    run.log({"pixel_mean": tensors["mean"], "pixel_std": tensors["std"]})
    log.info("%s: %s train, %s val and %s test images", run.experiment, *sizes.values())


def read_split(folder: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read the images [N, 28, 28] and labels [N] of a split of MNIST: `train` or `t10k` (test).

    Raises:
        UserError: a file is not an IDX file, or it is truncated or corrupted.
    """
    images, labels = (next(folder.glob(f"{split}-{kind}-*")) for kind in ("images", "labels"))
    return read_idx(images), read_idx(labels).astype(np.int64)


def stratified_split(
    labels: NDArray[np.int64], fraction: float, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Split indices in two, with each class in the same proportion in both parts.

    Returns:
        The sorted indices of the training images, and those of the validation images: `fraction` of all.

    Raises:
        UserError: one of the two is empty.
    """
    random = np.random.default_rng(seed)
    position = np.empty(len(labels))  # of each image in its shuffled class, from 0 to 1
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        position[members] = (random.permutation(len(members)) + random.random()) / len(members)
    order = np.argsort(position, kind="stable")
    count = round(len(labels) * fraction)
    if not 0 < count < len(labels):
        raise UserError(f"val_fraction={fraction} leaves a split of {len(labels)} images empty")
    return np.sort(order[count:]), np.sort(order[:count])


if __name__ == "__main__":
    main()
