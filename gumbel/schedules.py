"""Schedules of the temperature, and of the slope of slope-annealed straight-through.

As in Optax, a schedule maps a step, an integer that may be traced, to a floating-point scalar. Its
parameters may be traced as well, except `num_steps`, so a sweep over them is one vmapped program.
With an `interval`, the value changes only every `interval` steps. Steps are counted in integers, so
the changes come at the right steps however long the run is.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from gumbel.arguments import check_integer
from gumbel.numerics import concrete_or_none

Step = Int[Array, ""] | int
Scalar = Float[Array, ""] | float
Schedule = Callable[[Step], Float[Array, ""]]


def constant(value: Scalar) -> Schedule:
    """`value` at every step.

    Args:
      value: positive.

    Raises:
      TypeError: `value` is not a number.
      ValueError: a concrete (not traced) `value` is not positive and finite.

    Example:
      >>> float(constant(0.5)(100))
      0.5
    """
    _check_positive(value=value)
    schedule = optax.schedules.constant_schedule(value)
    return lambda step: jnp.asarray(schedule(step), float)


def exponential(
    rate: Scalar, floor: Scalar, *, value: Scalar = 1.0, interval: Step = 1
) -> Schedule:
    """`max(floor, value * exp(-rate * t))`, with `t` the step of the last refresh.

    Args:
      rate: decay per step, >= 0; 1e-5, 3e-5 and 1e-4 in the paper.
      floor: smallest value, positive; 0.5 in the paper.
      value: value at step 0, positive.
      interval: steps from one refresh to the next, an integer >= 1; 500 to 2000 in the paper.

    Raises:
      TypeError: an argument is not a number.
      ValueError: a concrete (not traced) argument is out of range.

    Source: Jang, Gu and Poole (2017), sections 4.2 and 4.3.

    Example:
      >>> schedule = exponential(1e-4, 0.5, interval=1000)
      >>> [round(float(schedule(step)), 4) for step in (0, 999, 1000, 100_000)]
      [1.0, 1.0, 0.9048, 0.5]
    """
    _check_positive(floor=floor, value=value)
    _check_at_least(0, rate=rate)
    _check_interval(interval)
    # optax.schedules.exponential_decay branches on its rate in Python: it cannot be traced.

    def schedule(step: Step) -> Float[Array, ""]:
        decay, lowest, start = _floats(rate, floor, value)
        return jnp.maximum(lowest, start * jnp.exp(-decay * _last(step, interval)))

    return schedule


def linear(value: Scalar, floor: Scalar, num_steps: int, *, interval: Step = 1) -> Schedule:
    """A straight line from `value` at step 0 to `floor` at step `num_steps`, constant after that.

    With an interval, it reaches `floor` at the first refresh at or after `num_steps`.

    Args:
      value: value at step 0, positive.
      floor: value at the end, positive.
      num_steps: length of the line, an integer >= 1.
      interval: steps from one refresh to the next, an integer >= 1.

    Raises:
      TypeError: an argument is not a number, or `num_steps` is not an integer or is traced.
      ValueError: a concrete (not traced) argument is out of range.

    Example:
      >>> [float(linear(1.0, 0.5, 100)(step)) for step in (0, 50, 1000)]
      [1.0, 0.75, 0.5]
    """
    _check_positive(value=value, floor=floor)
    num_steps = check_integer(num_steps, "schedule: num_steps", least=1)
    _check_interval(interval)
    # optax.schedules.linear_schedule compares integers, of 32 bits each.
    length = float(num_steps)

    def schedule(step: Step) -> Float[Array, ""]:
        start, end = _floats(value, floor)
        passed = jnp.minimum(_last(step, interval), length)
        return (start - end) * (1 - passed / length) + end

    return schedule


def cosine(value: Scalar, floor: Scalar, num_steps: int, *, interval: Step = 1) -> Schedule:
    """`floor + (value - floor) * (1 + cos(pi * t / num_steps)) / 2`, then constant.

    Args:
      value: value at step 0, positive.
      floor: value at the end, positive.
      num_steps: length of the half wave, an integer >= 1.
      interval: steps from one refresh to the next, an integer >= 1.

    Raises:
      TypeError: an argument is not a number, or `num_steps` is not an integer or is traced.
      ValueError: a concrete (not traced) argument is out of range.

    Example:
      >>> [float(cosine(1.0, 0.5, 100)(step)) for step in (0, 50, 1000)]
      [1.0, 0.75, 0.5]
    """
    _check_positive(value=value, floor=floor)
    num_steps = check_integer(num_steps, "schedule: num_steps", least=1)
    _check_interval(interval)
    wave = optax.schedules.cosine_decay_schedule(1.0, num_steps)

    def schedule(step: Step) -> Float[Array, ""]:
        start, end = _floats(value, floor)
        return end + (start - end) * wave(_last(step, interval))

    return schedule


def slope(rate: Scalar, maximum: Scalar, *, initial: Scalar = 1.0, interval: Step = 1) -> Schedule:
    """`min(maximum, initial + rate * t)`: a slope for slope-annealed straight-through.

    Args:
      rate: growth per step, >= 0.
      maximum: largest slope, positive.
      initial: slope at step 0, positive.
      interval: steps from one refresh to the next, an integer >= 1.

    Raises:
      TypeError: an argument is not a number.
      ValueError: a concrete (not traced) argument is out of range.

    Source: Chung, Ahn and Bengio (2017), section 3.3.

    Example:
      >>> [float(slope(0.25, 2.0)(step)) for step in (0, 2, 100)]
      [1.0, 1.5, 2.0]
    """
    _check_positive(maximum=maximum, initial=initial)
    _check_at_least(0, rate=rate)
    _check_interval(interval)
    # optax.schedules.linear_schedule wants a whole number of steps to the maximum.

    def schedule(step: Step) -> Float[Array, ""]:
        growth, largest, start = _floats(rate, maximum, initial)
        return jnp.minimum(largest, start + growth * _last(step, interval))

    return schedule


def _last(step: Step, interval: Step) -> Float[Array, ""]:
    """The step of the last refresh, counted in integers; 0 before the first step."""
    step, interval = _python_integer(step), _python_integer(interval)
    if isinstance(step, int) and isinstance(interval, int):
        return jnp.asarray(float(max(step, 0) // interval * interval))
    step = jnp.maximum(jnp.asarray(step), 0)
    kind = step.dtype if step.dtype.itemsize >= 4 else np.dtype(np.int32)
    if isinstance(interval, int) and interval > _largest(kind):
        return jnp.zeros_like(step, float)  # no step of this kind gets there
    interval = jnp.asarray(interval, kind)
    return (step.astype(kind) // interval * interval).astype(float)


def _largest(kind: np.dtype[Any]) -> float:
    is_integer = jnp.issubdtype(kind, jnp.integer)
    return int(jnp.iinfo(kind).max) if is_integer else float(jnp.finfo(kind).max)


def _python_integer(number: Any) -> Step:
    """A NumPy integer as that of Python, which has no largest value; others as they are."""
    found: Step = int(number) if isinstance(number, np.integer) else number
    return found


def _floats(*parameters: Scalar) -> tuple[Float[Array, ""], ...]:
    """The parameters in one dtype, that of the values of a schedule."""
    return tuple(jnp.asarray(parameter, float) for parameter in parameters)


def _check_interval(interval: Step) -> None:
    _check_at_least(1, interval=interval)
    if not jnp.issubdtype(jnp.result_type(interval), jnp.integer):
        raise ValueError(f"schedule: interval must be an integer, got {interval}: round it")


def _number(name: str, value: Scalar) -> np.ndarray | None:
    """The value as a NumPy array, or `None` if it is traced."""
    if not isinstance(value, (int, float, np.ndarray, np.generic, jax.Array)):
        raise TypeError(f"schedule: {name} must be a number, got {type(value).__name__}")
    return concrete_or_none(value)


def _check_positive(**parameters: Scalar) -> None:
    for name, value in parameters.items():
        known = _number(name, value)
        if known is not None and not np.all(np.isfinite(known) & (known > 0)):
            raise ValueError(f"schedule: {name} must be positive and finite, got {value}")


def _check_at_least(minimum: int, **parameters: Scalar) -> None:
    for name, value in parameters.items():
        known = _number(name, value)
        if known is not None and not np.all(np.isfinite(known) & (known >= minimum)):
            raise ValueError(f"schedule: {name} must be finite and >= {minimum}, got {value}")
