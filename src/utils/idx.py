"""IDX, the file format of MNIST and its relatives: a magic number, the sizes, then raw bytes."""

import gzip
import zlib
from pathlib import Path

from src.utils.errors import UserError

import numpy as np
from numpy.typing import NDArray

UNSIGNED_BYTE = 0x08


def read_bytes(file: Path) -> bytes:
    """The content of a file, unpacked if it is gzipped (by content: names lie)."""
    content = file.read_bytes()
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{file} is truncated or corrupted ({error}): get it again") from None


def read_idx(file: Path) -> NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes; UserError when it is not just that."""
    content = read_bytes(file)
    if len(content) < 4 or content[:3] != bytes([0, 0, UNSIGNED_BYTE]):
        raise UserError(
            f"{file} is not an IDX file of bytes: its first bytes are {content[:4].hex()}"
        )
    dimensions = content[3]
    start = 4 + 4 * dimensions
    shape = tuple(np.frombuffer(content[4:start], ">u4").tolist())
    expected = start + int(np.prod(shape))
    if len(content) != expected:
        raise UserError(
            f"{file} is truncated or corrupted: {len(content):,} bytes unpacked, "
            f"and its header says {expected:,}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
