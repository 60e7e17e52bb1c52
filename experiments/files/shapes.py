"""The shape of JSON data, checked when it is read, so that later code can rely on it."""

import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from experiments.errors import TYPE_NAMES


class Maybe(NamedTuple):
    """The shape of a key that an object may lack."""

    shape: Any


# A type or a union of types; `[shape]` for a list; `{name: shape}` for an object that has these
# keys and perhaps others; `{str: shape}` for one of any keys; a tuple of shapes for any of them;
# `object` for anything.
Shape = Any


def mismatch(value: Any, shape: Shape, where: str = "") -> str:
    """What first differs from the shape, in words; empty if nothing does.

    Example:
      >>> shape = {"config": {str: object}, "grid": [dict], "bound": float | None}
      >>> mismatch({"config": {}, "grid": [{"seed": 0}], "bound": None}, shape)
      ''
      >>> mismatch({"config": {}, "grid": [3], "bound": 1}, shape)
      'grid[0] is an integer, not an object'
      >>> mismatch({"config": {}, "grid": []}, shape)
      'it has no bound'
    """
    if isinstance(shape, Maybe):
        shape = shape.shape
    if isinstance(shape, tuple):
        found = [mismatch(value, each, where) for each in shape]
        return "" if "" in found else found[0]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return _wrong(value, list, where)
        parts: Iterator[tuple[str, Any, Shape]] = (
            (f"{where}[{index}]", item, shape[0]) for index, item in enumerate(value)
        )
    elif isinstance(shape, Mapping):
        if not isinstance(value, Mapping):
            return _wrong(value, dict, where)
        every = shape.get(str)
        wanted = dict.fromkeys(value, every) if every is not None else shape
        for name, inner in wanted.items():
            if name not in value and not isinstance(inner, Maybe):
                return f"{where or 'it'} has no {name}"
        parts = (
            (f"{where}.{name}" if where else name, value[name], inner)
            for name, inner in wanted.items()
            if name in value
        )
    else:
        return "" if _is(value, shape) else _wrong(value, shape, where)
    return next((text for part in parts if (text := mismatch(part[1], part[2], part[0]))), "")


def _is(value: Any, kind: Any) -> bool:
    if kind is None:
        return value is None
    if isinstance(kind, types.UnionType):
        return any(_is(value, each) for each in typing.get_args(kind))
    if isinstance(value, bool):  # a bool is an int to Python, and not to JSON
        return kind in (bool, object)
    return isinstance(value, (int, float) if kind is float else kind)


def _wrong(value: Any, wanted: Any, where: str) -> str:
    kinds = typing.get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,)
    names = " or ".join(TYPE_NAMES.get(kind, str(kind)) for kind in kinds)
    found = TYPE_NAMES.get(type(value), type(value).__name__)
    return f"{where or 'it'} is {found}, not {names}"
