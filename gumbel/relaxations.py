"""Samples of discrete distributions and their continuous relaxations.

Every function is pure and takes its PRNG key first. Categorical ones work along the last axis of
`logits` (unnormalized log probabilities, K up to 1,000,000), Bernoulli ones elementwise (log odds).
Values and gradients are finite for logits up to +-1e4 and temperatures from 0.01 to 100 in
float32, bfloat16 and float16; the arithmetic is done in float32 at least, since 16-bit floats can
hold neither the resolution of the noise nor the range of `logits / temperature`.

A value that cannot occur has a logit of -inf, or one 1e8 or more below the largest (log odds of
+-inf, or beyond +-1e8): it is exactly 0 in every sample, and every gradient is finite. Where a
logit or a traced temperature is NaN, or all logits of a variable are -inf, or one is inf, the
sample of that variable is NaN throughout.

Temperatures in float16 support reverse-mode differentiation only (`jax.grad`, not `jax.jvp`), in
which gradients too large for float16 become its largest value. Cast them to float32 for forward
mode.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from gumbel.arguments import categorical_logits, check_key, floating, noise_temperature
from gumbel.noise import gumbel_noise, logistic_noise
from gumbel.numerics import CERTAIN, upcast, wide_dtype
from gumbel.tracing import divided_as
from gumbel.types import PRNGKey


def straight_through(hard: Float[Array, "..."], soft: Float[Array, "..."]) -> Float[Array, "..."]:
    """The value of `hard` with the gradient of `soft`.

    The value is `hard` bit for bit, because nothing is added and subtracted again: one-hot
    vectors stay one-hot. No gradient flows to `hard`.

    Args:
      hard: gives the value.
      soft: gets the gradient; of the shape and dtype of `hard`.

    Raises:
      ValueError: shapes or dtypes differ.

    Source: Bengio, Léonard and Courville (2013).

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
      logits: unnormalized log probabilities; -inf rules a value out.

    Returns:
      Exactly one-hot vectors of the shape and dtype of `logits`, through which no gradient flows.

    Raises:
      ValueError: K is 0.
      TypeError: `key` is not one PRNG key, or `logits` are not floating-point.

    Source: Jang, Gu and Poole (2017), equation 1.

    Example:
      >>> gumbel_max(jax.random.key(0), jnp.array([0.0, 50.0, 0.0])).tolist()
      [0.0, 1.0, 0.0]
    """
    check_key(key)
    logits = categorical_logits(logits)
    perturbed = perturb(key, jax.lax.stop_gradient(logits))
    return one_hot_argmax(perturbed, perturbed.astype(logits.dtype))


def gumbel_softmax(
    key: PRNGKey,
    logits: Float[Array, "*batch K"],
    temperature: ArrayLike,
    *,
    hard: bool = False,
) -> Float[Array, "*batch K"]:
    """A relaxed categorical sample, `softmax((logits + g) / temperature)` with `g` Gumbel(0, 1).

    It tends to a one-hot categorical sample as the temperature goes to 0, and to `1 / K` as it
    grows. It is differentiable in `logits` and in `temperature`.

    Args:
      key: PRNG key.
      logits: unnormalized log probabilities; -inf rules a value out.
      temperature: positive; a scalar, or one per row, of shape `[..., 1]`.
      hard: straight-through variant, whose value is one-hot (exactly) at the largest entry of the
        relaxed sample and whose gradient is that of the relaxed sample.

    Returns:
      Points of the simplex, of the shape and dtype of `logits`.

    Raises:
      ValueError: a concrete (not traced) `temperature` is not positive and finite, or it is not
        one per row, or K is 0.
      TypeError: `key` is not one PRNG key, or `logits` are not floating-point, or `temperature` is
        not a number or an array.

    Source: Jang, Gu and Poole (2017), equation 2 and section 2.2.

    Example:
      >>> gumbel_softmax(jax.random.key(0), jnp.array([0.0, 50.0]), 1.0, hard=True).tolist()
      [0.0, 1.0]
    """
    check_key(key)
    logits = categorical_logits(logits)
    temperature = noise_temperature(temperature, upcast(logits), per_row=True)
    perturbed = perturb(key, logits)
    soft = jax.nn.softmax(tempered(perturbed, temperature), axis=-1).astype(logits.dtype)
    return straight_through(one_hot_argmax(perturbed, soft), soft) if hard else soft


def exp_gumbel_softmax(
    key: PRNGKey, logits: Float[Array, "*batch K"], temperature: ArrayLike
) -> Float[Array, "*batch K"]:
    """The logarithm of a `gumbel_softmax` sample, precise even where the sample rounds to 0.

    With one key both give the same sample.

    Args:
      key: PRNG key.
      logits: unnormalized log probabilities; -inf rules a value out.
      temperature: positive; a scalar, or one per row, of shape `[..., 1]`.

    Returns:
      `log y` of the shape of `logits`, in float32 at least, since it reaches -2e4 / temperature.

    Raises:
      ValueError: a concrete (not traced) `temperature` is not positive and finite, or it is not
        one per row, or K is 0.
      TypeError: `key` is not one PRNG key, or `logits` are not floating-point, or `temperature` is
        not a number or an array.

    Source: Maddison, Mnih and Teh (2017), appendix C.3 (there ExpConcrete).

    Example:
      >>> log_y = exp_gumbel_softmax(jax.random.key(0), jnp.array([0.0, 500.0]), 0.1)
      >>> bool(log_y[0] < -4000)
      True
    """
    check_key(key)
    logits = categorical_logits(logits)
    temperature = noise_temperature(temperature, upcast(logits), per_row=True)
    return jax.nn.log_softmax(tempered(perturb(key, logits), temperature), axis=-1)


def binary_concrete(
    key: PRNGKey, logits: Float[Array, "..."], temperature: ArrayLike, *, hard: bool = False
) -> Float[Array, "..."]:
    """A relaxed Bernoulli sample, `sigmoid((logits + l) / temperature)` with `l` logistic(0, 1).

    It is distributed as the first entry of a `gumbel_softmax` sample with logits `(logits, 0)`,
    and like it differentiable in `logits` and in `temperature`.

    Args:
      key: PRNG key.
      logits: log odds; +-inf makes a variable constant.
      temperature: positive; a scalar, or an array that broadcasts to the shape of `logits`.
      hard: straight-through variant, whose value is exactly 1 where the relaxed sample is over 1/2
        and else 0, and whose gradient is that of the relaxed sample.

    Returns:
      Values in [0, 1], of the shape and dtype of `logits`.

    Raises:
      ValueError: a concrete (not traced) `temperature` is not positive and finite, or does not
        broadcast.
      TypeError: `key` is not one PRNG key, or `logits` are not floating-point, or `temperature` is
        not a number or an array.

    Source: Jang, Gu and Poole (2017), equation 2 with k = 2; Maddison, Mnih and Teh (2017),
    appendix B.

    Example:
      >>> binary_concrete(jax.random.key(0), jnp.array([-50.0, 50.0]), 1.0, hard=True).tolist()
      [0.0, 1.0]
    """
    check_key(key)
    logits = floating(logits)
    logit_y = logit_binary_concrete(key, logits, temperature)
    soft = jax.nn.sigmoid(logit_y).astype(logits.dtype)
    if not hard:
        return soft
    value = jnp.where(jnp.isnan(soft), soft, (logit_y > 0).astype(logits.dtype))
    return straight_through(value, soft)


def logit_binary_concrete(
    key: PRNGKey, logits: Float[Array, "..."], temperature: ArrayLike
) -> Float[Array, "..."]:
    """The log odds of a `binary_concrete` sample, `(logits + l) / temperature`.

    With one key both give the same sample.

    Args:
      key: PRNG key.
      logits: log odds of the variables; +-inf makes a variable constant.
      temperature: positive; a scalar, or an array that broadcasts to the shape of `logits`.

    Returns:
      Log odds of the shape of `logits`, in float32 at least, since they reach 1e4 / temperature.

    Raises:
      ValueError: a concrete (not traced) `temperature` is not positive and finite, or does not
        broadcast.
      TypeError: `key` is not one PRNG key, or `logits` are not floating-point, or `temperature` is
        not a number or an array.

    Example:
      >>> bool(logit_binary_concrete(jax.random.key(0), jnp.array(500.0), 0.1) > 4000)
      True
    """
    check_key(key)
    wide = upcast(floating(logits))
    return tempered_odds(wide, logistic_noise(key, wide.shape, wide.dtype), temperature)


def soft_categorical(
    logits: Float[Array, "*batch K"], noise: Float[Array, "*batch K"], temperature: ArrayLike
) -> Float[Array, "*batch K"]:
    """`gumbel_softmax` with given noise: `softmax((logits + noise) / temperature)`.

    Example:
      >>> soft_categorical(jnp.array([0.0, -jnp.inf]), jnp.zeros(2), 0.5).tolist()
      [1.0, 0.0]
    """
    logits = categorical_logits(logits)
    temperature = noise_temperature(temperature, upcast(logits), per_row=True)
    soft = jax.nn.softmax(tempered(perturbed(logits, noise), temperature), axis=-1)
    return soft.astype(logits.dtype)


def soft_bernoulli(
    logits: Float[Array, "..."], noise: Float[Array, "..."], temperature: ArrayLike
) -> Float[Array, "..."]:
    """`binary_concrete` with given noise: `sigmoid((logits + noise) / temperature)`.

    Example:
      >>> soft_bernoulli(jnp.array([0.0, jnp.inf]), jnp.zeros(2), 0.5).tolist()
      [0.5, 1.0]
    """
    logits = floating(logits)
    return jax.nn.sigmoid(tempered_odds(logits, noise, temperature)).astype(logits.dtype)


@jax.custom_jvp
def _first_with_gradient_of_second(hard: Array, _soft: Array) -> Array:
    return hard


@_first_with_gradient_of_second.defjvp
def _first_with_gradient_of_second_jvp(
    primals: tuple[Any, Any], tangents: tuple[Any, Any]
) -> tuple[Any, Any]:
    return _first_with_gradient_of_second(*primals), tangents[1]


def perturbed(
    logits: Float[Array, "*batch K"], noise: Float[Array, "*batch K"]
) -> Float[Array, "*batch K"]:
    """`logits + noise`, minus a constant per row, which changes no argmax or softmax.

    With the largest logit at 0 before the noise is added, large logits neither swallow digits of
    the noise nor cancel in the gradient of the temperature. A row whose largest logit is not
    finite becomes NaN.
    """
    wide = upcast(logits)
    largest = jax.lax.stop_gradient(jnp.max(wide, axis=-1, keepdims=True))
    shift = largest + (largest - largest)
    return (wide - shift) + noise


def perturb(key: PRNGKey, logits: Float[Array, "*batch K"]) -> Float[Array, "*batch K"]:
    """`perturbed` by Gumbel noise."""
    return perturbed(logits, gumbel_noise(key, logits.shape, wide_dtype(logits)))


def tempered_odds(
    logits: Float[Array, "..."], noise: Float[Array, "..."], temperature: ArrayLike
) -> Float[Array, "..."]:
    """`(logits + noise) / temperature`, or +-inf for a constant, which gets no gradient."""
    wide = upcast(logits)
    temperature = noise_temperature(temperature, wide)
    certain = jnp.abs(wide) >= CERTAIN
    logit_y = (jnp.where(certain, 0, wide) + noise) / temperature
    end = jnp.where(wide > 0, jnp.inf, -jnp.inf) + (temperature - temperature)  # NaN if it is
    return jnp.where(certain, end.astype(wide.dtype), logit_y)


def tempered(
    perturbed: Float[Array, "*batch K"], temperature: Float[Array, "..."]
) -> Float[Array, "*batch K"]:
    """`perturbed / temperature`, or -inf for values that cannot occur, which get no gradient."""
    impossible = perturbed <= -CERTAIN
    return jnp.where(impossible, -jnp.inf, jnp.where(impossible, 0, perturbed) / temperature)


def one_hot_argmax(
    scores: Float[Array, "*batch K"], like: Float[Array, "*batch K"]
) -> Float[Array, "*batch K"]:
    """The position of the largest score, one-hot, in the dtype of `like`; NaN where `like` is."""
    one_hot = jax.nn.one_hot(jnp.argmax(scores, axis=-1), scores.shape[-1], dtype=like.dtype)
    return jnp.where(jnp.isnan(like), like, divided_as(one_hot, like=like))
