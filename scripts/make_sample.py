"""Make _data/sample, the small MNIST that comes with the repository, from the full dataset.

    .venv/bin/python scripts/make_sample.py PATH/TO/MNIST

The folder holds the four original files, {train,t10k}-{images-idx3,labels-idx1}-ubyte.gz.
The images are always the same; with the same versions of Python and zlib, so are the bytes.
"""

import gzip
import struct
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

SAMPLE = Path(__file__).parents[1] / "_data" / "sample"
PER_CLASS = {"train": 500, "t10k": 100}  # 5,000 images to train on, 1,000 to test with
SEED = 0

Bytes = npt.NDArray[np.uint8]


def read_idx(path: Path) -> Bytes:
    """A gzipped IDX file: two zeros, the type (8: uint8), the rank, each length (4 bytes), the values."""
    raw = gzip.decompress(path.read_bytes())
    rank = raw[3]
    shape = struct.unpack_from(f">{rank}I", raw, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def write_idx(path: Path, array: Bytes) -> None:
    """Gzipped, without a time stamp."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes(), compresslevel=9, mtime=0))


def sample_indices(labels: Bytes, per_class: int) -> npt.NDArray[np.int64]:
    """Indices of `per_class` random images of each class, in their original order."""
    random = np.random.default_rng(SEED)
    classes = (np.flatnonzero(labels == digit) for digit in range(10))
    return np.sort(np.concatenate([random.choice(c, per_class, replace=False) for c in classes]))


def main(full: Path) -> None:
    """Write the four files of the sample; `full` is the folder of the original files."""
    for part, per_class in PER_CLASS.items():
        labels = read_idx(full / f"{part}-labels-idx1-ubyte.gz")
        indices = sample_indices(labels, per_class)
        write_idx(SAMPLE / f"{part}-labels-idx1-ubyte.gz", labels[indices])
        images = read_idx(full / f"{part}-images-idx3-ubyte.gz")
        write_idx(SAMPLE / f"{part}-images-idx3-ubyte.gz", images[indices])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
