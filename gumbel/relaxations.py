"""Samples of discrete distributions and their continuous relaxations.

Every function is pure and takes its PRNG key first. Categorical ones work along the last axis of
`logits` (unnormalised log probabilities), Bernoulli ones elementwise (log odds). Values and
gradients are finite for logits up to +-1e4 and temperatures from 0.01 to 100 in float32, bfloat16
and float16; the arithmetic is done in float32 at least, since 16-bit floats can hold neither the
resolution of the noise nor the range of `logits / temperature`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from gumbel.noise import gumbel_noise, logistic_noise
from gumbel.numerics import (
    concrete_or_none,
    floating,
    upcast,
    upcast_saturating,
)
from gumbel.types import PRNGKey


def check_temperature(temperature: ArrayLike) -> None:
    """Refuses a temperature that is not positive and finite.

    A traced temperature (under `jit`, `vmap` or `grad`) passes, as its value is not known.

    Args:
      temperature: a scalar or an array of them.

    Raises:
      ValueError: the value is known and some entry is <= 0, infinite or NaN.

    Example:
      >>> check_temperature(0.5)
      >>> check_temperature(0.0)
      Traceback (most recent call last):
      ...
      ValueError: temperature must be positive and finite, got 0.0: use a small one such as 0.1
    """
    value = concrete_or_none(temperature)
    if value is None:
        return
    value = value.astype(np.float64)
    bad = value[~(np.isfinite(value) & (value > 0))]
    if bad.size:
        raise ValueError(
            f"temperature must be positive and finite, got {bad[0]}: use a small one such as 0.1"
        )


def check_per_row(temperature: ArrayLike) -> None:
    """Refuses a temperature for each class: all classes of a variable share one.

    Raises:
      ValueError: it is neither a scalar nor of shape `[..., 1]`.
    """
    shape = jnp.shape(temperature)
    if shape and shape[-1] != 1:
        raise ValueError(f"temperature has shape {shape}: give a scalar or one per row, [..., 1]")


def straight_through(hard: Float[Array, "..."], soft: Float[Array, "..."]) -> Float[Array, "..."]:
    """The value of `hard` with the gradient of `soft`.

    The value is `hard` bit for bit, as nothing is added to it and taken away again: what is
    one-hot stays one-hot. No gradient flows to `hard`.

    Args:
      hard: gives the value.
      soft: gets the gradient; of the shape and dtype of `hard`.

    Raises:
      ValueError: shapes or dtypes differ.

    References:
      Bengio, Leonard, Courville 2013, Estimating or propagating gradients through stochastic
      neurons.

    Example:
      >>> value, gradient = jax.value_and_grad(lambda x: straight_through(jnp.round(x), 2 * x))(0.7)
      >>> float(value), float(gradient)
      (1.0, 2.0)
    """
    hard, soft = jnp.asarray(hard), jnp.asarray(soft)
    if hard.shape != soft.shape or hard.dtype != soft.dtype:
        raise ValueError(
            f"straight_through got hard {hard.dtype}{list(hard.shape)} and soft "
            f"{soft.dtype}{list(soft.shape)}: give both one shape and dtype"
        )
    return _first_with_gradient_of_second(hard, soft)


def gumbel_max(key: PRNGKey, logits: Float[Array, "*batch K"]) -> Float[Array, "*batch K"]:
    """A categorical sample, `one_hot(argmax_i(logits_i + g_i))` with `g_i` Gumbel(0, 1).

    Args:
      key: PRNG key.
      logits: unnormalised log probabilities, finite.

    Returns:
      Exactly one-hot vectors of the shape and dtype of `logits`, through which no gradient flows.

    Raises:
      TypeError: `logits` are not floating-point.

    References:
      Jang, Gu, Poole 2017, equation 1.

    Example:
      >>> gumbel_max(jax.random.key(0), jnp.array([0.0, 50.0, 0.0])).tolist()
      [0.0, 1.0, 0.0]
    """
    logits = floating(logits)
    return _one_hot_argmax(_perturb(key, jax.lax.stop_gradient(logits)), logits.dtype)


def gumbel_softmax(
    key: PRNGKey,
    logits: Float[Array, "*batch K"],
    temperature: ArrayLike,
    *,
    hard: bool = False,
) -> Float[Array, "*batch K"]:
    """A relaxed categorical sample, `softmax((logits + g) / temperature)` with `g` Gumbel(0, 1).

    It tends to a one-hot categorical sample as the temperature goes to 0, and to `1 / K` as it
    grows. It is differentiable in `logits` and in `temperature`, which may thus be learned.

    Args:
      key: PRNG key.
      logits: unnormalised log probabilities, finite.
      temperature: positive; a scalar, or one per row, of shape `[..., 1]`.
      hard: straight-through variant, whose value is one-hot (exactly) at the largest entry of the
        relaxed sample and whose gradient is that of the relaxed sample.

    Returns:
      Points of the simplex, of the shape and dtype of `logits`.

    Raises:
      ValueError: a known `temperature` is not positive and finite, or it is not one per row.
      TypeError: `logits` are not floating-point.

    References:
      Jang, Gu, Poole 2017, equation 2 and section 2.2.

    Example:
      >>> gumbel_softmax(jax.random.key(0), jnp.array([0.0, 50.0]), 1.0, hard=True).tolist()
      [0.0, 1.0]
    """
    logits = floating(logits)
    temperature = _checked(temperature, logits.shape, per_row=True)
    perturbed = _perturb(key, logits)
    soft = jax.nn.softmax(perturbed / temperature, axis=-1).astype(logits.dtype)
    return straight_through(_one_hot_argmax(perturbed, logits.dtype), soft) if hard else soft


def exp_gumbel_softmax(
    key: PRNGKey, logits: Float[Array, "*batch K"], temperature: ArrayLike
) -> Float[Array, "*batch K"]:
    """The logarithm of a `gumbel_softmax` sample, precise even where the sample rounds to 0.

    With one key both give the same sample.

    Args:
      key: PRNG key.
      logits: unnormalised log probabilities, finite.
      temperature: positive; a scalar, or one per row, of shape `[..., 1]`.

    Returns:
      `log y` of the shape of `logits`, in float32 at least, since it reaches -2e4 / temperature.

    Raises:
      ValueError: a known `temperature` is not positive and finite, or it is not one per row.
      TypeError: `logits` are not floating-point.

    References:
      Maddison, Mnih, Teh 2017, The concrete distribution, appendix C.3 (there ExpConcrete).

    Example:
      >>> log_y = exp_gumbel_softmax(jax.random.key(0), jnp.array([0.0, 500.0]), 0.1)
      >>> bool(log_y[0] < -4000)
      True
    """
    logits = floating(logits)
    temperature = _checked(temperature, logits.shape, per_row=True)
    return jax.nn.log_softmax(_perturb(key, logits) / temperature, axis=-1)


def binary_concrete(
    key: PRNGKey, logits: Float[Array, "..."], temperature: ArrayLike, *, hard: bool = False
) -> Float[Array, "..."]:
    """A relaxed Bernoulli sample, `sigmoid((logits + l) / temperature)` with `l` logistic(0, 1).

    It is distributed as the first entry of a `gumbel_softmax` sample with logits `(logits, 0)`,
    and like it differentiable in `logits` and in `temperature`.

    Args:
      key: PRNG key.
      logits: log odds, finite.
      temperature: positive; a scalar, or an array that broadcasts to the shape of `logits`.
      hard: straight-through variant, whose value is exactly 1 where the relaxed sample is over 1/2
        and else 0, and whose gradient is that of the relaxed sample.

    Returns:
      Values in [0, 1], of the shape and dtype of `logits`.

    Raises:
      ValueError: a known `temperature` is not positive and finite, or does not broadcast.
      TypeError: `logits` are not floating-point.

    References:
      Jang, Gu, Poole 2017, equation 2 with k = 2; Maddison, Mnih, Teh 2017, appendix B.

    Example:
      >>> binary_concrete(jax.random.key(0), jnp.array([-50.0, 50.0]), 1.0, hard=True).tolist()
      [0.0, 1.0]
    """
    logits = floating(logits)
    logit_y = logit_binary_concrete(key, logits, temperature)
    soft = jax.nn.sigmoid(logit_y).astype(logits.dtype)
    return straight_through((logit_y > 0).astype(logits.dtype), soft) if hard else soft


def logit_binary_concrete(
    key: PRNGKey, logits: Float[Array, "..."], temperature: ArrayLike
) -> Float[Array, "..."]:
    """The log odds of a `binary_concrete` sample, `(logits + l) / temperature`.

    With one key both give the same sample.

    Args:
      key: PRNG key.
      logits: log odds of the variables, finite.
      temperature: positive; a scalar, or an array that broadcasts to the shape of `logits`.

    Returns:
      Log odds of the shape of `logits`, in float32 at least, since they reach 1e4 / temperature.

    Raises:
      ValueError: a known `temperature` is not positive and finite, or does not broadcast.
      TypeError: `logits` are not floating-point.

    Example:
      >>> bool(logit_binary_concrete(jax.random.key(0), jnp.array(500.0), 0.1) > 4000)
      True
    """
    wide = upcast(floating(logits))
    temperature = _checked(temperature, wide.shape)
    return (wide + logistic_noise(key, wide.shape, wide.dtype)) / temperature


@jax.custom_jvp
def _first_with_gradient_of_second(hard: Array, _soft: Array) -> Array:
    return hard


@_first_with_gradient_of_second.defjvp
def _first_with_gradient_of_second_jvp(
    primals: tuple[Any, Any], tangents: tuple[Any, Any]
) -> tuple[Any, Any]:
    return _first_with_gradient_of_second(*primals), tangents[1]


def _checked(temperature: ArrayLike, shape: tuple[int, ...], *, per_row: bool = False) -> Array:
    """The temperature in float32 at least, after its value and its shape are checked."""
    check_temperature(temperature)
    if per_row:
        check_per_row(temperature)
    temperature = upcast_saturating(temperature)
    # One that is larger than the logits would spread a single draw of the noise over several.
    if temperature.ndim > len(shape) or any(
        size not in (1, whole)
        for size, whole in zip(reversed(temperature.shape), reversed(shape), strict=False)
    ):
        raise ValueError(
            f"temperature of shape {temperature.shape} does not broadcast to logits of {shape}:"
            " give a scalar, or repeat the logits"
        )
    return temperature


def _perturb(key: PRNGKey, logits: Float[Array, "*batch K"]) -> Float[Array, "*batch K"]:
    """`logits + gumbel`, less a constant per row that no argmax or softmax can see.

    With the largest logit at 0 before the noise is added, large logits neither swallow digits of
    the noise nor cancel in the gradient of the temperature.
    """
    wide = upcast(logits)
    largest = jax.lax.stop_gradient(jnp.max(wide, axis=-1, keepdims=True))
    return (wide - largest) + gumbel_noise(key, wide.shape, wide.dtype)


def _one_hot_argmax(scores: Float[Array, "*batch K"], dtype: DTypeLike) -> Array:
    return jax.nn.one_hot(jnp.argmax(scores, axis=-1), scores.shape[-1], dtype=dtype)
