"""JSON files read with clear errors."""

import json
from pathlib import Path
from typing import Any

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
