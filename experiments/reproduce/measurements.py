"""JSON files of what is measured row by row, by one process or by several after each other."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import config
from experiments.errors import UserError
from experiments.files import Shape, read_json
from experiments.training import records
from experiments.training.provenance import ORIGIN, origin, provenance

Row = dict[str, Any]


def resume(path: Path, shape: Shape, setting: Mapping[str, Any]) -> list[Row]:
    """The rows that the file has; none if there is no file.

    Args:
      path: of the file.
      shape: of what it holds.
      setting: what all rows of the file have in common, by top-level key. Of `program`, a part of a
        config, what is younger than the file had its default.

    Raises:
      UserError: the file is damaged, or of another setting.
    """
    if not path.exists():
        return []
    kept = read_json(path, {**shape, **ORIGIN}, "delete it, to measure again")
    for key, ours in setting.items():
        alike = config.same(kept[key], ours) if key == "program" else kept[key] == ours
        if not alike:
            raise UserError(
                f"{path} is of another {key}{_difference(kept[key], ours)}: delete it, or give "
                "another --results"
            )
    return [{"from": origin(kept)} | row for row in kept["rows"]]


def write(path: Path, setting: Mapping[str, Any], rows: Sequence[Row], **more: Any) -> list[Row]:
    """Writes the file; returns its rows, of which the new ones now say where they are from."""
    here = provenance()
    rows = [{"from": origin(here)} | row for row in rows]
    records.write_json(path, {**here, **setting, "rows": rows, **more})
    return rows


def _difference(theirs: Any, ours: Any) -> str:
    if not isinstance(theirs, Mapping):
        return f" ({theirs}, not {ours})"
    keys = sorted(key for key in theirs.keys() | ours if theirs.get(key) != ours.get(key))
    shown = (f"{key} is {theirs.get(key)}, not {ours.get(key)}" for key in keys[:3])
    return f" ({', '.join(shown)})"
