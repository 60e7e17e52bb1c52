"""Checks of the values, shapes, and types of arguments; each error is one sentence.

Shapes and dtypes are always known. A value that JAX is tracing is not, so it passes here, and what
is invalid about it becomes NaN in the result.
"""

import difflib
import operator
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from gumbel.numerics import concrete_or_none, same_rank, upcast_saturating
from gumbel.types import PRNGKey

_SMALLEST = float(np.finfo(np.float32).tiny)


def check_key(key: PRNGKey, order: str = "(key, logits, ...)") -> None:
    """Raises TypeError unless `key` is a single PRNG key.

    Args:
      key: what was given as the key.
      order: order of the arguments, for the message.

    Raises:
      TypeError: `key` is not a key, or is an array of several.

    Example:
      >>> check_key(jax.random.key(0))
      >>> check_key(jnp.zeros(3))
      Traceback (most recent call last):
      ...
      TypeError: key must be a PRNG key, such as jax.random.key(0), got float32[3]: the order is
      (key, logits, ...)
    """
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", ())
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        event_ndim = 0
    elif dtype == jnp.uint32 and shape[-1:] == _raw_key_shape():
        event_ndim = 1
    else:
        sizes = ",".join(map(str, shape))
        got = f"{dtype}[{sizes}]" if dtype is not None else type(key).__name__
        raise TypeError(
            f"key must be a PRNG key, such as jax.random.key(0), got {got}: the order is {order}"
        )
    if len(shape) != event_ndim:
        raise TypeError(f"expected one PRNG key, got an array of shape {shape}: use jax.vmap")


def _raw_key_shape() -> tuple[int, ...]:
    """The shape of a raw key of jax's default generator."""
    key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    return tuple(key.shape)


def check_params(params: PyTree) -> None:
    """Raises TypeError if a leaf of the parameters is not an array or a number.

    Example:
      >>> check_params({"w": jnp.ones(2), "activation": jnp.tanh})
      Traceback (most recent call last):
      ...
      TypeError: params['activation'] is a PjitFunction: keep only arrays in params, and close over
      the rest in the objective
    """
    fix = "keep only arrays in params, and close over the rest in the objective"
    check_arrays(params, "params", fix)


def check_arrays(tree: PyTree, name: str, fix: str) -> None:
    """Raises TypeError if a leaf is not an array or a number."""
    for path, leaf in jax.tree.leaves_with_path(tree):
        try:
            jax.typeof(leaf)
        except TypeError:
            at, what = jax.tree_util.keystr(path), type(leaf).__name__
            raise TypeError(f"{name}{at} is a {what}: {fix}") from None


def check_function(value: Any, what: str, like: str) -> None:
    """Raises ValueError if an option that is to be a function is not one.

    Example:
      >>> check_function(2.0, "slope", "a function of the step")
      Traceback (most recent call last):
      ...
      ValueError: slope=2.0: give a function of the step
    """
    if not callable(value):
        raise ValueError(f"{what}={value!r}: give {like}")


def as_integer(value: Any, name: str) -> int:
    """`value` as an int.

    Raises:
      TypeError: `value` is not an integer, or is traced.

    Example:
      >>> as_integer(2.5, "chunk_size")
      Traceback (most recent call last):
      ...
      TypeError: chunk_size must be an integer that is not traced, got 2.5
    """
    try:
        return operator.index(value)
    except TypeError as error:
        raise TypeError(f"{name} must be an integer that is not traced, got {value}") from error


def check_integer(value: Any, name: str, *, least: int) -> int:
    """`value` as an int of at least `least`.

    Raises:
      TypeError: `value` is not an integer, or is traced.
      ValueError: it is below `least`, or a boolean.

    Example:
      >>> check_integer(0, "chunk_size", least=1)
      Traceback (most recent call last):
      ...
      ValueError: chunk_size must be an integer, 1 or more, got 0
    """
    number = as_integer(value, name)
    if isinstance(value, bool) or number < least:
        raise ValueError(f"{name} must be an integer, {least} or more, got {value}")
    return number


def suggestion(word: object, valid: Iterable[str]) -> str:
    """The end of an error message about an unknown word; empty if there are no valid ones.

    Example:
      >>> suggestion("gumbel_sofmax", ["sf", "gumbel_softmax", "st"])
      'did you mean gumbel_softmax?'
      >>> suggestion(3, ["sf", "st"])
      'choose one of sf, st'
    """
    valid = list(valid)
    near = difflib.get_close_matches(str(word).lower(), valid, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"choose one of {', '.join(valid)}" if valid else ""


def floating(logits: ArrayLike) -> Float[Array, "..."]:
    """`logits` as an array, refused if they are not floating-point.

    Raises:
      TypeError: they are integers or booleans, which could not hold what is computed from them.

    Example:
      >>> floating([0, 1])
      Traceback (most recent call last):
      ...
      TypeError: logits must be floating-point, got int32: cast them to float32
    """
    logits = jnp.asarray(logits)
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(f"logits must be floating-point, got {logits.dtype}: cast them to float32")
    return logits


def check_temperature(temperature: ArrayLike) -> None:
    """Raises unless `temperature` is finite and at least 1.2e-38.

    That is the smallest normal float32; smaller ones count as 0 on most devices. A traced
    temperature (under `jit`, `vmap` or `grad`) passes, as its value is not known.

    Args:
      temperature: a scalar or an array of them.

    Raises:
      TypeError: it is not a real number or an array of them.
      ValueError: the value is known and some entry is too small, infinite or NaN.

    Example:
      >>> check_temperature(0.5)
      >>> check_temperature(0.0)
      Traceback (most recent call last):
      ...
      ValueError: temperature must be positive and finite, got 0.0: use a small one such as 0.1
    """
    numeric = isinstance(temperature, (int, float, np.ndarray, np.generic, jax.Array))
    dtype = jnp.result_type(temperature) if numeric else None
    if dtype is None or not (
        jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)
    ):
        got = type(temperature).__name__ if dtype is None else dtype.name
        mapping = isinstance(temperature, Mapping)
        hint = ": only estimators take a mapping, from sites to temperatures" if mapping else ""
        raise TypeError(f"temperature must be a real number or an array of them, got {got}{hint}")
    value = concrete_or_none(temperature)
    if value is None:
        return
    value = value.astype(np.float64)
    bad = value[~(np.isfinite(value) & (value >= _SMALLEST))]
    if bad.size and 0 < bad[0] < _SMALLEST:
        raise ValueError(
            f"temperature {bad[0]} is below {_SMALLEST:.2g}, the smallest normal float32: use a"
            " larger one such as 0.1"
        )
    if bad.size:
        raise ValueError(
            f"temperature must be positive and finite, got {bad[0]}: use a small one such as 0.1"
        )


def check_per_row(value: ArrayLike, name: str = "temperature") -> None:
    """Raises ValueError if a parameter differs between the classes of a variable.

    Raises:
      ValueError: it is neither a scalar nor of shape `[..., 1]`.
    """
    shape = jnp.shape(value)
    if shape and shape[-1] != 1:
        raise ValueError(f"{name} has shape {shape}: give a scalar or one per row, [..., 1]")


def checked_temperature(
    temperature: ArrayLike, dtype: np.dtype[Any], *, per_row: bool = False
) -> Float[Array, "..."]:
    """The temperature in `dtype`; NaN where it is traced and turns out not to be valid."""
    check_temperature(temperature)
    if per_row:
        check_per_row(temperature)
    known = concrete_or_none(temperature) is not None
    temperature = upcast_saturating(temperature).astype(dtype)
    if known:
        return temperature
    log = jnp.log(jax.lax.stop_gradient(temperature))
    return temperature + (log - log)  # plus 0, or plus NaN unless it is positive and finite


def noise_temperature(
    temperature: ArrayLike, logits: Array, *, per_row: bool = False
) -> Float[Array, "..."]:
    """`checked_temperature`, for samples: of the rank of `logits`, or a scalar.

    Raises:
      ValueError: it does not broadcast to the shape of `logits`. One that is larger would spread
        a single draw of the noise over several samples.
    """
    checked = checked_temperature(temperature, logits.dtype, per_row=per_row)
    check_broadcasts_to(checked, logits, "temperature")
    return same_rank(checked, logits)[0] if checked.ndim else checked


def check_broadcasts_to(value: ArrayLike, logits: Array, name: str) -> None:
    """Raises ValueError if a parameter is larger than its logits, which would repeat them.

    Raises:
      ValueError: it does not broadcast to the shape of `logits`.
    """
    shape, whole = jnp.shape(value), logits.shape
    if len(shape) > len(whole) or any(
        size not in (1, full) for size, full in zip(reversed(shape), reversed(whole), strict=False)
    ):
        raise ValueError(
            f"{name} of shape {shape} does not broadcast to logits of {whole}:"
            " give a scalar, or repeat the logits"
        )


def categorical_logits(logits: ArrayLike) -> Float[Array, "*batch K"]:
    """`logits` as an array, refused if they are not floating-point or have no values.

    Raises:
      TypeError: they are integers or booleans.
      ValueError: they are a scalar, or K is 0.

    Example:
      >>> categorical_logits(jnp.zeros((3, 0)))
      Traceback (most recent call last):
      ...
      ValueError: logits of shape (3, 0) have no values: give [..., K] with K at least 1
    """
    logits = floating(logits)
    if not logits.ndim or not logits.shape[-1]:
        raise ValueError(
            f"logits of shape {logits.shape} have no values: give [..., K] with K at least 1"
        )
    return logits


def check_point(z: ArrayLike, logits: ArrayLike, *, event_ndims: int, name: str = "z") -> None:
    """Raises ValueError unless `z` fits its logits; labels do not fit one-hot values, for example.

    Args:
      z: the value, of the rank of `logits` at least, or a scalar for elementwise logits.
      logits: logits of the variables; leading axes broadcast.
      event_ndims: 1 if the last axis holds one-hot values, whose sizes then have to agree; else 0.
      name: name of `z`, for the message.

    Raises:
      ValueError: the shapes do not fit, or integer values are known and not one-hot (not 0 or 1).

    Example:
      >>> check_point(jnp.array([0, 2]), jnp.zeros((2, 3)), event_ndims=1)
      Traceback (most recent call last):
      ...
      ValueError: z of shape (2,) does not fit logits of shape (2, 3): it is one-hot along the last
      axis, so use jax.nn.one_hot(labels, 3)
    """
    shape, whole = np.shape(z), np.shape(logits)
    hint = "leading axes broadcast, and z needs at least as many axes as the logits"
    if event_ndims:
        hint = f"it is one-hot along the last axis, so use jax.nn.one_hot(labels, {whole[-1]})"
    too_few = len(shape) < len(whole) and (event_ndims > 0 or len(shape) > 0)
    if too_few or (event_ndims and shape[-1] != whole[-1]) or not _broadcast(shape, whole):
        raise ValueError(f"{name} of shape {shape} does not fit logits of shape {whole}: {hint}")
    if jnp.issubdtype(z.dtype if isinstance(z, jax.Array) else np.asarray(z).dtype, jnp.floating):
        return
    value = concrete_or_none(z)
    if value is None:
        return
    if not np.isin(value, (0, 1)).all() or (event_ndims and not (value.sum(axis=-1) == 1).all()):
        needed = "one-hot along the last axis: use jax.nn.one_hot" if event_ndims else "0 or 1"
        raise ValueError(f"{name} has integer values that are not {needed}")


def check_broadcast(logits_q: Array, logits_p: Array, *, event_ndims: int) -> None:
    """Raises ValueError if two logits do not broadcast, or their K differ.

    Raises:
      ValueError: they do not broadcast, or their K differ.
    """
    q, p = logits_q.shape, logits_p.shape
    if (event_ndims and q[-1] != p[-1]) or not _broadcast(q, p):
        same = ", and K must be equal" if event_ndims else ""
        raise ValueError(f"logits of shapes {q} and {p} do not fit: axes must broadcast{same}")


def check_temperature_fits(temperature: Array, point: Array, name: str) -> None:
    """Raises ValueError if the temperature of a density does not broadcast with the point `name`.

    Unlike that of a draw, it may be larger: no noise is repeated.
    """
    if not _broadcast(temperature.shape, point.shape):
        raise ValueError(
            f"temperature of shape {temperature.shape} does not broadcast with {name} of shape "
            f"{point.shape}"
        )


def _broadcast(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    pairs = zip(reversed(first), reversed(second), strict=False)
    return all(a == b or 1 in (a, b) for a, b in pairs)
