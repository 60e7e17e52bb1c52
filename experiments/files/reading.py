"""JSON and npz files read with clear errors."""

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from experiments.errors import UserError, one_line
from experiments.files.shapes import Shape, mismatch


def read_json(path: str | Path, shape: Shape = object, fix: str = "delete it") -> Any:
    """The value in a JSON file.

    Args:
      path: path of the file.
      shape: shape that the value must have; see `experiments.files.shapes`.
      fix: what to do about a file that is damaged or of another shape.

    Raises:
      UserError: there is no such file, it is not JSON, or its value has another shape.
      OSError: it cannot be read.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({one_line(error)}): {fix}") from None
    if wrong := mismatch(value, shape):
        raise UserError(f"{path} is damaged ({wrong}): {fix}")
    return value


def read_arrays(path: Path, fix: str = "delete it") -> dict[str, np.ndarray]:
    """The arrays in an npz file, by name.

    Args:
      path: path of the file.
      fix: what to do about a file that is damaged.

    Raises:
      UserError: it is not an npz file, or an array in it cannot be read.
      OSError: it cannot be read.
    """
    try:
        with np.load(path) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is damaged ({one_line(error)}): {fix}") from error
