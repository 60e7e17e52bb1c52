"""Helpers for arithmetic that has to stay finite, and for values that may be traced."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from gumbel.tracing import has_divided_axis

# Log odds from which on samples and densities treat an event as certain, or as impossible.
CERTAIN = 1e8


def concrete_or_none(value: ArrayLike) -> np.ndarray | None:
    """`value` as a NumPy array, or `None` while JAX is tracing it and it has no value yet.

    Example:
      >>> concrete_or_none(0.5)
      array(0.5)
      >>> jax.jit(lambda x: x if concrete_or_none(x) is None else -x)(3).item()
      3
    """
    try:
        return np.asarray(value)
    except jax.errors.TracerArrayConversionError:
        return None


@jax.custom_jvp
def softplus(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """`log(1 + exp(x))`, as `jax.nn.softplus`, whose derivative costs a sigmoid and no more.

    Pixel likelihoods spend a good part of a training step here.

    Example:
      >>> [round(value, 4) for value in softplus(jnp.array([-1e4, 0.0, 1e4])).tolist()]
      [0.0, 0.6931, 10000.0]
    """
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@softplus.defjvp
def _softplus_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    [x], [tangent] = primals, tangents
    return softplus(x), jax.nn.sigmoid(x) * tangent


def wide_dtype(*arrays: ArrayLike) -> np.dtype[Any]:
    """The dtype to compute in: float64 if an array has it, else float32.

    Example:
      >>> wide_dtype(jnp.ones(2, jnp.bfloat16), jnp.ones(2, jnp.int32)).name
      'float32'
    """
    dtypes = [jnp.asarray(array).dtype for array in arrays]
    return np.dtype(np.float64 if np.float64 in dtypes else np.float32)


def upcast(x: ArrayLike) -> Float[Array, "..."]:
    """`x` in float32, or in float64 if that is its own dtype.

    Example:
      >>> upcast(jnp.ones(2, jnp.bfloat16)).dtype.name
      'float32'
    """
    x = jnp.asarray(x)
    return x.astype(wide_dtype(x))


def widened(*arrays: ArrayLike) -> tuple[Array, ...]:
    """The arrays in the `wide_dtype` of all of them.

    Example:
      >>> [x.dtype.name for x in widened(jnp.ones(2, jnp.bfloat16), jnp.ones(2, bool))]
      ['float32', 'float32']
    """
    dtype = wide_dtype(*arrays)
    return tuple(jnp.asarray(array).astype(dtype) for array in arrays)


def same_rank(*arrays: Array) -> tuple[Array, ...]:
    """The arrays with leading axes of size 1 added, so that they broadcast without a promotion.

    Example:
      >>> [x.shape for x in same_rank(jnp.ones(3), jnp.ones((2, 1)))]
      [(1, 3), (2, 1)]
    """
    ndim = max(array.ndim for array in arrays)
    return tuple(array.reshape((1,) * (ndim - array.ndim) + array.shape) for array in arrays)


def upcast_saturating(x: ArrayLike) -> Float[Array, "..."]:
    """As `upcast`, but a gradient too large for a float16 `x` becomes its largest finite value.

    For inputs whose true gradient leaves float16's range in ordinary use, as `1 / x` does from
    `x = 1.5e-5` down. With float16 inputs it has no forward-mode derivative.

    Example:
      >>> jax.grad(lambda x: 1e6 * upcast_saturating(x))(jnp.float16(1.0)).item()
      65504.0
    """
    x = jnp.asarray(x)
    return _float16_to_float32(x) if x.dtype == jnp.float16 else upcast(x)


@jax.custom_vjp
def _float16_to_float32(x: Array) -> Array:
    return x.astype(jnp.float32)


def _float16_to_float32_fwd(x: Array) -> tuple[Array, None]:
    return x.astype(jnp.float32), None


def _float16_to_float32_bwd(_: None, cotangent: Array) -> tuple[Array]:
    largest = float(jnp.finfo(jnp.float16).max)
    return (jnp.clip(cotangent, -largest, largest).astype(jnp.float16),)


_float16_to_float32.defvjp(_float16_to_float32_fwd, _float16_to_float32_bwd)


def one_or_nan(logits: Float[Array, "... K"]) -> Float[Array, "... 1"]:
    """1 for each categorical variable, or NaN if its largest logit is infinite or NaN.

    As a factor, it brings NaN into a gradient from which infinite logits were taken out.

    Example:
      >>> one_or_nan(jnp.array([[0.0, -jnp.inf], [-jnp.inf, -jnp.inf]])).tolist()
      [[1.0], [nan]]
    """
    largest = jax.lax.stop_gradient(jnp.max(upcast(logits), axis=-1, keepdims=True))
    return 1 + (largest - largest)


def zero_that_varies_as(*arrays: Array) -> Float[Array, ""]:
    """0, which under `shard_map` is typed as varying over devices wherever an array is.

    A loop whose steps see such arrays has to start from such a carry.

    Example:
      >>> float(zero_that_varies_as(jnp.array([jnp.inf, jnp.nan])))
      0.0
    """
    zero = jnp.zeros((), jnp.float32)
    for array in map(jnp.asarray, arrays):
        if array.size and not jnp.issubdtype(array.dtype, jax.dtypes.extended):  # PRNG keys
            # JAX cannot take a single entry of an array that is sharded over an explicit mesh.
            entry = jnp.max(abs(array)) if has_divided_axis(array) else array.ravel()[0]
            zero += 0 * (entry == entry).astype(zero.dtype)  # noqa: PLR0124
    return zero


def zero_where_not_finite(tree: PyTree) -> PyTree:
    """A gradient whose infinite and NaN entries are 0.

    Example:
      >>> zero_where_not_finite(jnp.array([1.0, jnp.nan, jnp.inf])).tolist()
      [1.0, 0.0, 0.0]
    """
    return jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0), tree)


def finite_or(new: PyTree, old: PyTree) -> PyTree:
    """`new` if all of it is finite, else `old`, for states that one bad batch must not spoil.

    Example:
      >>> [float(x) for x in finite_or((jnp.inf, 1.0), (2.0, 3.0))]
      [2.0, 3.0]
    """
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(new)]))
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
