"""JSON files of what is measured row by row, by one process or by several after each other."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from experiments import config
from experiments.errors import UserError
from experiments.files import Shape, read_json
from experiments.training import records, rundir
from experiments.training.provenance import ORIGIN, origin

Row = dict[str, Any]
_NAMES = {"cores": "number of cores"}


def locked(path: Path) -> AbstractContextManager[None]:
    """Holds the file against other processes: two that measured at once would measure each other.

    Args:
      path: path of the file; its directory is made if absent.

    Raises:
      UserError: another process holds it, or the directory cannot be used.
    """
    return rundir.locked(path.parent, flag="results", name=f".{path.stem}.lock")


def resume(
    path: Path,
    shape: Shape,
    setting: Mapping[str, Any],
    is_complete: Callable[[list[Row]], bool] = lambda _rows: False,
) -> list[Row]:
    """The rows that the file has; none if there is no file.

    Args:
      path: path of the file.
      shape: shape of its contents.
      setting: what all rows of the file have in common, by top-level key. Keys of
        `program`, a part of a config, that are newer than the file count as their defaults.
      is_complete: whether nothing is left to measure; then the machine may be another one.

    Raises:
      UserError: the file is damaged, or of another setting.
    """
    if not path.exists():
        return []
    kept = read_json(path, {**shape, **ORIGIN}, "delete it, to measure again")
    rows = [{"from": origin(kept)} | row for row in kept["rows"]]
    if is_complete(rows):
        setting = _apart_from_the_machine(setting)
    for key, ours in setting.items():
        if difference := _difference(kept.get(key, ours), ours, key):  # an older file may lack it
            raise UserError(
                f"{path} is of another {_NAMES.get(key, key)} ({difference}): delete it, or give "
                "another --results"
            )
    return rows


def _apart_from_the_machine(setting: Mapping[str, Any]) -> dict[str, Any]:
    """What a setting says of all but the machine: no device, and no number of cores."""
    return {
        key: {name: v for name, v in value.items() if name != "cores"}
        if isinstance(value, Mapping)
        else value
        for key, value in setting.items()
        if key not in ("cores", "device")
    }


def write(
    path: Path,
    here: Mapping[str, Any],
    setting: Mapping[str, Any],
    rows: Sequence[Row],
    **more: Any,
) -> list[Row]:
    """Writes the file.

    Args:
      path: path of the file.
      here: the provenance of the new rows, read before they were measured: by now another commit
        may be checked out.
      setting: see `resume`.
      rows: the rows of the file, and new ones.
      more: other top-level keys.

    Returns:
      All rows. The new ones now record their origin.
    """
    rows = [{"from": origin(here)} | row for row in rows]
    records.write_json(path, {**here, **setting, "rows": rows, **more})
    return rows


def _difference(theirs: Any, ours: Any, key: str) -> str:
    """How a setting differs, in words; empty if it does not."""
    if not isinstance(theirs, Mapping):
        return "" if theirs == ours else f"{theirs} there, {ours} here"
    if key == "program":
        return config.difference(theirs, ours)
    names = sorted(n for n in theirs.keys() & ours if theirs[n] != ours[n])  # both say them
    return "; ".join(f"{n} is {theirs[n]} there, {ours[n]} here" for n in names)
