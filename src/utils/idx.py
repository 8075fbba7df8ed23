"""IDX, the file format of MNIST: a magic number, the sizes of the dimensions, then raw bytes."""

import gzip
import zlib
from pathlib import Path

from src.utils.errors import UserError

import numpy as np
from numpy.typing import NDArray

GZIP_MAGIC = b"\x1f\x8b"
UNSIGNED_BYTE = 0x08  # the type of the elements, in the third byte of an IDX file


def read_idx(file: Path) -> NDArray[np.uint8]:
    """Read the array in an IDX file of unsigned bytes, gzipped or not.

    Raises:
        UserError: the file is no such file, or it is truncated or corrupted.
    """
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


def read_bytes(file: Path) -> bytes:
    """Read a file, and unpack it if its content is gzipped, whatever its name.

    Raises:
        UserError: the gzipped content is truncated or corrupted.
    """
    content = file.read_bytes()
    if not content.startswith(GZIP_MAGIC):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{file} is truncated or corrupted ({error}): get it again") from None
