"""The options of an estimator's factory: their types and ranges, which `register` declares."""

import inspect
import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from gumbel.numerics import concrete_or_none


class Range(NamedTuple):
    """The values that an option may have, in addition to its type.

    Attributes:
      minimum: the smallest value, included.
      maximum: the largest value, included.
      below: an upper bound, not included.
      choices: the only values.
    """

    minimum: float | None = None
    maximum: float | None = None
    below: float | None = None
    choices: tuple[Any, ...] | None = None

    def __str__(self) -> str:
        if self.choices is not None:
            return f"one of {', '.join(map(repr, self.choices))}"
        if self.below is not None:
            return f"in [{self.minimum or 0:g}, {self.below:g})"
        if self.maximum is not None:
            return f"in [{self.minimum or 0:g}, {self.maximum:g}]"
        return "" if self.minimum is None else f">= {self.minimum:g}"

    def holds(self, value: Any) -> bool:
        """Whether a known value is in the range."""
        if self.choices is not None:
            return value in self.choices
        return (
            (self.minimum is None or value >= self.minimum)
            and (self.maximum is None or value <= self.maximum)
            and (self.below is None or value < self.below)
        )


class Option(NamedTuple):
    """One keyword option of an estimator's factory.

    Attributes:
      name: name of the keyword.
      default: default in the factory's signature.
      kind: `bool`, `int`, `float`, `str` or `tuple`, and so a config key; None for other objects,
        such as functions.
      optional: whether None is a value too.
      range: range of its values.
    """

    name: str
    default: Any
    kind: type | None
    optional: bool
    range: Range

    def check(self, estimator: str, value: Any) -> None:
        """Raises ValueError if a known value is of another kind or out of range.

        Raises:
          ValueError: it names the estimator, the option and what it may be.
        """
        if self.kind is None or (self.optional and value is None):
            return
        known = concrete_or_none(value) if isinstance(value, jax.Array | np.ndarray) else value
        if known is None:  # traced: its value is not known
            return
        if isinstance(known, np.ndarray):
            known = known.item() if known.ndim == 0 else known.tolist()
        if not _is_kind(known, self.kind) or not self.range.holds(known):
            raise ValueError(
                f"estimator {estimator!r}: {self.name} must be {self._allowed()}, got {value!r}"
            )

    def plain(self, value: Any) -> Any:
        """The value; an integer in an array as Python's, which a program may be shaped by."""
        if self.kind is int and isinstance(value, jax.Array | np.ndarray | np.integer):
            known = concrete_or_none(value)
            return value if known is None else int(known)
        return value

    def _allowed(self) -> str:
        limits = str(self.range)
        if self.range.choices is not None or (self.kind is float and limits.startswith("in")):
            return limits
        kinds = {bool: "True or False", int: "an integer", float: "a finite number"}
        what = kinds.get(self.kind, f"a {self.kind.__name__}") if self.kind else ""
        return f"{what} {limits}".strip()


def _is_kind(value: Any, kind: type) -> bool:
    if kind is bool:
        return isinstance(value, bool | np.bool_)
    if isinstance(value, bool | np.bool_):
        return False
    if kind is int:
        return isinstance(value, numbers.Integral)
    if kind is float:
        return isinstance(value, numbers.Real) and math.isfinite(value)
    return isinstance(value, kind)


def options_of(
    factory: Callable[..., Any], ranges: Mapping[str, Range], kinds: Mapping[str, type]
) -> dict[str, Option]:
    """The keyword-only options of a factory.

    Args:
      factory: factory of an estimator.
      ranges: ranges by option, where it has one.
      kinds: types of options whose default is None.

    Raises:
      ValueError: a parameter other than the first, the family, can be passed by position.
    """
    options = {}
    for position, (name, parameter) in enumerate(inspect.signature(factory).parameters.items()):
        if position and parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
            raise ValueError(
                f"parameter {name!r} of the factory can be passed by position: put a * before it, "
                "to make it an option"
            )
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            default = parameter.default
            kind = type(default) if type(default) in (bool, int, float, str, tuple) else None
            kind = kinds.get(name, kind)
            limits = ranges.get(name, Range())
            options[name] = Option(name, default, kind, default is None, limits)
    return options
