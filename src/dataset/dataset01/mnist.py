"""MNIST as published: four IDX files, checked by content.

    poetry run python src/dataset/dataset01/mnist.py
    poetry run python src/dataset/dataset01/mnist.py source=local folder=$HOME/data/mnist

Output: the four files under their published names, gzipped if the source is.

Data: Y. LeCun, C. Cortes, C. J. C. Burges, «The MNIST database of handwritten digits»; CC BY-SA 3.0.
"""

import hashlib
import logging
import shutil
import socket
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from src.utils.experiment import experiment
from src.utils.errors import UserError, one_line
from src.utils.idx import read_bytes, read_idx
from src.utils.paths import ROOT
from src.utils.run import Run
from src.utils.settings import StageSettings

log = logging.getLogger(__name__)

SAMPLE = ROOT / "_data" / "sample"  # 6,000 of the 70,000 images, committed in this repository
PUBLISHED = {  # the SHA-256 digests of the unpacked files
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
FULL_SIZE = {"train": 60_000, "t10k": 10_000}  # images in each split, as published
TIMEOUT = 20  # seconds, so that a dead network does not block the first run


class Config(StageSettings):
    """The types of the settings; their values are in config/dataset/dataset01."""

    source: Literal["auto", "download", "local", "sample"]
    folder: Path | None  # of IDX files, gzipped or not, for source=local

    def paths_read(self) -> list[Path]:
        """The folder is read with source=local only."""
        return [self.folder] if self.folder and self.source == "local" else []


@experiment
def main(cfg: Config, run: Run) -> None:
    """Find or download the four files, check them, and copy them to the output."""
    with TemporaryDirectory() as scratch:
        files, source = find_files(cfg, run.experiment.data, Path(scratch))
        counts = {split: check_split(files, split) for split in FULL_SIZE}
        for name, file in files.items():
            shutil.copyfile(file, run.output / f"{name}{'.gz' if file.suffix == '.gz' else ''}")
    run.tag_data(source=source)
    run.log({f"{split}_images": count for split, count in counts.items()})
    log.info("%s: %s train and %s test images (%s)", run.experiment, *counts.values(), source)


def find_files(cfg: Config, current: Path, scratch: Path) -> tuple[dict[str, Path], str]:
    """Find the four files that the setting `source` asks for.

    Args:
        cfg: the settings.
        current: the folder of the output of an earlier run, which may hold all of MNIST already.
        scratch: an empty folder for a download.

    Returns:
        The files by their published names, and the tag `data.source`: `full`, `sample` or `local`.

    Raises:
        UserError: source=local has no folder, or a file is missing there; or source=download fails.
    """
    if cfg.source == "sample":
        return idx_files(SAMPLE), "sample"
    if cfg.source == "local":
        if cfg.folder is None:
            raise UserError("source=local needs folder=…: the folder with the four IDX files")
        folder = cfg.folder.expanduser()
        return idx_files(folder), "full" if is_published(folder) else "local"
    if is_published(current):
        log.info("MNIST is there already: not downloaded again")
        return idx_files(current), "full"
    try:
        return idx_files(download(scratch)), "full"
    except Exception as error:
        reason = one_line(error)  # torchvision's message has a few lines for each mirror
        if cfg.source == "download":
            raise UserError(f"MNIST could not be downloaded ({reason}): see source=local") from None
        log.warning("MNIST could not be downloaded (%s)", reason)
        log.warning("SAMPLE DATA: 6,000 of the 70,000 images; force=true tries the download again")
        return idx_files(SAMPLE), "sample"


def download(folder: Path) -> Path:
    """Download the published files with torchvision, and return the folder that holds them."""
    from torchvision.datasets import MNIST  # late: it imports torch, and is needed once

    log.info("downloading MNIST (11 MB)")
    socket.setdefaulttimeout(TIMEOUT)
    MNIST(str(folder), download=True)
    return folder / "MNIST" / "raw"


def idx_files(folder: Path) -> dict[str, Path]:
    """Return the four files in a folder by their published names; a gzipped one comes first.

    Raises:
        UserError: one of the four is missing.
    """
    files = {}
    for name in PUBLISHED:
        candidates = [folder / f"{name}.gz", folder / name, folder / name.replace("-idx", ".idx")]
        existing = [file for file in candidates if file.is_file()]
        if not existing:
            raise UserError(f"{folder} has no {name}.gz (and no {name}): MNIST is four such files")
        files[name] = existing[0]
    return files


def is_published(folder: Path) -> bool:
    """Whether a folder holds all of MNIST, as published."""
    try:
        for name, file in idx_files(folder).items():
            check_published(name, file)
    except UserError:
        return False
    return True


def check_split(files: dict[str, Path], split: str) -> int:
    """Check the images and labels of a split, and return the number of images.

    Raises:
        UserError: a file is corrupted or has the wrong shape, or the labels don't fit the images.
    """
    image_name, label_name = (name for name in PUBLISHED if name.startswith(split))
    images, labels = read_idx(files[image_name]), read_idx(files[label_name])
    if images.ndim != 3 or images.shape[1:] != (28, 28):
        raise UserError(f"{files[image_name]} has shape {images.shape}: expected (N, 28, 28)")
    if labels.shape != images.shape[:1]:
        raise UserError(
            f"{files[label_name]} has shape {labels.shape} for {len(images):,} images: they must agree"
        )
    if len(labels) == 0 or labels.max() > 9:
        raise UserError(f"{files[label_name]} has labels other than 0 to 9, or none")
    if len(images) == FULL_SIZE[split]:
        for name in (image_name, label_name):
            check_published(name, files[name])
    return len(images)


def check_published(name: str, file: Path) -> None:
    """Compare the content of a file with the published digest.

    Raises:
        UserError: they differ, or the gzipped content is truncated or corrupted.
    """
    if hashlib.sha256(read_bytes(file)).hexdigest() != PUBLISHED[name]:
        raise UserError(
            f"{file} is corrupted: its content is not what MNIST published; get it again"
        )


if __name__ == "__main__":
    main()
