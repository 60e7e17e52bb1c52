"""JSON files, written atomically, and the lines of a log of metrics, read with clear errors.

JSON has no word for NaN or infinity, so they are written as null, everywhere alike.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.errors import UserError, one_line
from experiments.files import mismatch, write_text

_ROW = {"step": int}


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as JSON so that `path` never holds half of it.

    Numpy and jax scalars become numbers, arrays and tuples lists, paths strings, NaN and infinity
    null.

    Raises:
      TypeError: `value` holds something that JSON cannot express.
    """
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(Path(path), text + "\n")


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`, in order; a torn last line, left by a kill, is passed over.

    Raises:
      UserError: there is no such file, or a line before the last one is damaged.
    """
    try:
        lines = Path(path).read_bytes().splitlines()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            if wrong := mismatch(row, _ROW) or mismatch(row, {str: float | None}):
                raise ValueError(wrong)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise UserError(
                f"line {number} of {path} is damaged ({one_line(error)}): delete that line"
            ) from None
        rows.append(row)
    return rows


def plain(value: Any) -> Any:
    """`value` in the types that JSON knows."""
    if isinstance(value, np.generic | np.ndarray | jax.Array):
        value = np.asarray(value).tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
