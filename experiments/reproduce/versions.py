"""Marks the cells of a table that were trained with releases of jax no longer supported."""

from collections.abc import Iterable, Mapping
from typing import Any

# From the first of these releases to before the second: excluded in `pyproject.toml`, as they
# compute some sums wrongly on CPU.
_MISCOMPUTING = ((0, 9, 1), (0, 11))


def mark(entry: Mapping[str, Any]) -> str:
    """A mark for a cell whose runs are of a release of jax that is no longer supported.

    Example:
      >>> mark({"jax": ["0.10.2"]}), mark({"jax": ["0.9.0.1", "0.12.0.1"]}), mark({})
      (' †', '', '')
    """
    return " †" if _unsupported(entry) else ""


def footnote(entries: Iterable[Mapping[str, Any]]) -> str:
    """What the mark means, a sentence after a space; empty if no cell has one."""
    versions = sorted({version for entry in entries for version in _unsupported(entry)})
    if not versions:
        return ""
    return f" †: trained with jax {' and '.join(versions)}, which is no longer supported."


def _unsupported(entry: Mapping[str, Any]) -> list[str]:
    def parts(version: str) -> tuple[int, ...]:
        return tuple(int(part) for part in version.split(".") if part.isdigit())

    first, end = _MISCOMPUTING
    return [version for version in entry.get("jax", ()) if first <= parts(version) < end]
