"""Readers of the two file formats that MNIST is published in."""

import math
import struct

import numpy as np
from jaxtyping import UInt8

_UNSIGNED_BYTE = 8  # The idx code of the only element type MNIST uses.


def parse_idx(data: bytes) -> UInt8[np.ndarray, "..."]:
    """Reads an idx file of unsigned bytes (MNIST's images and labels, unpacked).

    Layout: two zero bytes, the element type, the rank, the sizes as big-endian 32-bit integers,
    then the elements in C order. Source: http://yann.lecun.com/exdb/mnist/.

    Raises:
      ValueError: not an idx file of unsigned bytes, or longer or shorter than its header says.

    Example:
      >>> parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 3, 5, 0, 4]))
      array([5, 0, 4], dtype=uint8)
    """
    if len(data) < 4 or data[:3] != bytes([0, 0, _UNSIGNED_BYTE]):
        raise ValueError("not an idx file of unsigned bytes")
    rank = data[3]
    start = 4 + 4 * rank
    sizes = struct.unpack_from(f">{rank}I", data, 4) if len(data) >= start else ()
    if len(sizes) != rank or len(data) != start + math.prod(sizes):
        raise ValueError("idx file is longer or shorter than its header says")
    return np.frombuffer(data, np.uint8, offset=start).reshape(sizes)


def parse_amat(data: bytes, row: int) -> UInt8[np.ndarray, "N row"]:
    r"""Reads a text matrix of single digits 0 and 1, `row` of them a line, one space between.

    Args:
      data: the text, each line ended by a newline.
      row: digits in a line.

    Raises:
      ValueError: any other character or line length.

    Example:
      >>> parse_amat(b"0 1 1\n1 0 0\n", row=3).tolist()
      [[0, 1, 1], [1, 0, 0]]
    """
    if not data or len(data) % (2 * row):
        raise ValueError(f"not a matrix of lines of {row} digits")
    characters = np.frombuffer(data, np.uint8).reshape(-1, row, 2)
    digits, separators = characters[..., 0] - ord("0"), characters[..., 1]
    well_formed = (
        (digits <= 1).all()
        and (separators[:, :-1] == ord(" ")).all()
        and (separators[:, -1] == ord("\n")).all()
    )
    if not well_formed:
        raise ValueError(f"not a matrix of lines of {row} digits 0 or 1")
    return digits
