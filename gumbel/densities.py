"""Log densities of the relaxed samples, on the simplex and in log space.

Results are in nats and in float32 at least, for 16-bit inputs too: they are sums whose range and
resolution 16 bits cannot hold. Logits need not be normalized.

Near a corner of the simplex the simplex forms lose digits, because `y` itself rounds to 0 or 1
there. If that matters, as at temperatures below about 0.3, sample with `exp_gumbel_softmax` or
`logit_binary_concrete` of `gumbel.relaxations` and use the log-space forms, which keep precision. A
ratio of two densities, and so a KL, is the same in either form.

A value that cannot occur (see `gumbel.relaxations`) is excluded: the density is that of the
variable without it, on the face of the simplex where its entry is 0, and the log density is -inf
elsewhere. A variable with only one possible value has log density 0 there. NaN inputs give NaN.

Points and temperatures in float16 support reverse-mode differentiation only (`jax.grad`, also of
itself, but not `jax.jvp`): gradients too large for float16 become its largest value. Cast them to
float32 for forward mode.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from gumbel.arguments import (
    categorical_logits,
    check_point,
    check_temperature_fits,
    checked_temperature,
    floating,
)
from gumbel.numerics import CERTAIN, same_rank, softplus, upcast_saturating, wide_dtype


def gumbel_softmax_log_prob(
    y: Float[Array, "*batch K"], logits: Float[Array, "*batch K"], temperature: ArrayLike
) -> Float[Array, "*batch"]:
    """The log density of a `gumbel_softmax` sample, with respect to `dy_1 ... dy_{K-1}`.

    With `pi = softmax(logits)` and `tau` the temperature,

        p(y) = Gamma(K) tau^(K-1) (sum_i pi_i / y_i^tau)^(-K) prod_i (pi_i / y_i^(tau+1)).

    Args:
      y: points of the simplex. In float32 entries below 1e-31 count as 1e-31, with gradient 0,
        so that value and gradient are finite at the corners too.
      logits: unnormalized log probabilities; broadcast against `y`.
      temperature: positive; a scalar, or one per row, of shape `[..., 1]`.

    Returns:
      Log densities in nats.

    Raises:
      ValueError: a concrete (not traced) `temperature` is not positive and finite, or it is not
        one per row, or shapes do not fit, or integers in place of `y` are not one-hot.
      TypeError: `logits` are not floating-point, or `temperature` is not a number or an array.

    Source: Jang, Gu and Poole (2017), appendix B.

    Example:
      >>> float(gumbel_softmax_log_prob(jnp.array([0.5, 0.5]), jnp.zeros(2), 1.0))
      0.0
    """
    y, logits, temperature = _checked(y, logits, temperature, name="y")
    log_y = _log_clamped(y)
    log_prob, impossible = _log_density(log_y, y > 0, logits, temperature)
    return log_prob - jnp.sum(jnp.where(impossible, 0, log_y), axis=-1)


def exp_gumbel_softmax_log_prob(
    log_y: Float[Array, "*batch K"], logits: Float[Array, "*batch K"], temperature: ArrayLike
) -> Float[Array, "*batch"]:
    """The log density of an `exp_gumbel_softmax` sample, in its log ratios `log(y_i / y_K)`.

    With `tau` the temperature it is

        log Gamma(K) + (K - 1) log tau + sum_i log_softmax(logits - tau log_y)_i,

    with respect to the K - 1 log ratios, or `dy_1 ... dy_{K-1} / (y_1 ... y_K)`. So it equals the
    simplex form plus `sum_i log y_i`.

    Args:
      log_y: logarithms of points of the simplex, finite where a value is possible.
      logits: unnormalized log probabilities; broadcast against `log_y`.
      temperature: positive; a scalar, or one per row, of shape `[..., 1]`.

    Returns:
      Log densities in nats.

    Raises:
      ValueError: a concrete (not traced) `temperature` is not positive and finite, or it is not
        one per row, or shapes do not fit, or integers in place of `log_y` are not one-hot.
      TypeError: `logits` are not floating-point, or `temperature` is not a number or an array.

    Source: Maddison, Mnih and Teh (2017), appendix C.3.

    Example:
      >>> corner = jnp.array([0.0, -5000.0])
      >>> round(float(exp_gumbel_softmax_log_prob(corner, jnp.zeros(2), 0.1)))
      -502
    """
    log_y, logits, temperature = _checked(log_y, logits, temperature, name="log_y")
    return _log_density(log_y, jnp.exp(log_y) > 0, logits, temperature)[0]


def binary_concrete_log_prob(
    y: Float[Array, "..."], logits: Float[Array, "..."], temperature: ArrayLike
) -> Float[Array, "..."]:
    """The log density of a `binary_concrete` sample on (0, 1), elementwise.

    `log p(y) = log p(logit(y)) - log y - log(1 - y)`, with `log p(logit(y))` as in
    `logit_binary_concrete_log_prob`.

    Args:
      y: values in [0, 1]. In float32 those below 1e-31 count as 1e-31 and those over 1 - 6e-8 as
        1 - 6e-8, with gradient 0, so that value and gradient are finite at 0 and 1 too.
      logits: log odds.
      temperature: positive; broadcasts against `y`.

    Returns:
      Log densities in nats.

    Raises:
      ValueError: a concrete (not traced) `temperature` is not positive and finite, or shapes do
        not fit.
      TypeError: `logits` are not floating-point, or `temperature` is not a number or an array.

    Source: Jang, Gu and Poole (2017), appendix B with k = 2; Maddison, Mnih and Teh (2017),
    appendix B.

    Example:
      >>> abs(float(binary_concrete_log_prob(jnp.array(0.25), jnp.array(0.0), 1.0))) < 1e-6
      True
    """
    y, logits, temperature = _checked_binary(y, logits, temperature, name="y")
    below_one = 1 - float(jnp.finfo(y.dtype).epsneg)
    log_y = _log_clamped(y)
    log_not_y = jnp.log1p(-jnp.where(y >= below_one, below_one, y))
    at_its_end = y == (logits > 0).astype(y.dtype)
    log_prob = _logit_log_density(log_y - log_not_y, logits, temperature, at_its_end)
    # The change of variables, which is none for a constant.
    return log_prob - jnp.where(jnp.abs(logits) >= CERTAIN, 0, log_y + log_not_y)


def logit_binary_concrete_log_prob(
    logit_y: Float[Array, "..."], logits: Float[Array, "..."], temperature: ArrayLike
) -> Float[Array, "..."]:
    """The log density of a `logit_binary_concrete` sample on the real line, elementwise.

    `log tau + log sigmoid(l) + log sigmoid(-l)` with `tau` the temperature and
    `l = tau * logit_y - logits`: a logistic distribution of mean `logits / tau`, scale `1 / tau`.

    Args:
      logit_y: log odds of the sample, finite.
      logits: log odds of the variable.
      temperature: positive; broadcasts against `logit_y`.

    Returns:
      Log densities in nats.

    Raises:
      ValueError: a concrete (not traced) `temperature` is not positive and finite, or shapes do
        not fit.
      TypeError: `logits` are not floating-point, or `temperature` is not a number or an array.

    Source: Maddison, Mnih and Teh (2017), appendix C.3.

    Example:
      >>> log_prob = logit_binary_concrete_log_prob(jnp.array(0.0), jnp.array(0.0), 1.0)
      >>> round(float(jnp.exp(log_prob)), 6)
      0.25
    """
    logit_y, logits, temperature = _checked_binary(logit_y, logits, temperature, name="logit_y")
    at_its_end = logit_y == jnp.where(logits > 0, jnp.inf, -jnp.inf)
    return _logit_log_density(logit_y, logits, temperature, at_its_end)


def _checked(
    point: ArrayLike, logits: ArrayLike, temperature: ArrayLike, *, name: str
) -> tuple[Array, Array, Array]:
    """The three in one wide dtype and of one rank, except for a scalar temperature."""
    logits = categorical_logits(logits)
    check_point(point, logits, event_ndims=1, name=name)
    return _widened(point, logits, temperature, name=name, per_row=True)


def _checked_binary(
    point: ArrayLike, logits: ArrayLike, temperature: ArrayLike, *, name: str
) -> tuple[Array, Array, Array]:
    logits = floating(logits)
    check_point(point, logits, event_ndims=0, name=name)
    return _widened(point, logits, temperature, name=name, per_row=False)


def _widened(
    point: ArrayLike, logits: Array, temperature: ArrayLike, *, name: str, per_row: bool
) -> tuple[Array, Array, Array]:
    dtype = wide_dtype(point, logits)
    wide_temperature = checked_temperature(temperature, dtype, per_row=per_row)
    wide_point = upcast_saturating(point).astype(dtype)
    check_temperature_fits(wide_temperature, wide_point, name)
    if wide_temperature.ndim:
        aligned = same_rank(wide_point, logits.astype(dtype), wide_temperature)
        return aligned[0], aligned[1], aligned[2]
    wide_point, wide_logits = same_rank(wide_point, logits.astype(dtype))
    return wide_point, wide_logits, wide_temperature


def _log_density(
    log_y: Float[Array, "*batch K"],
    present: Array,
    logits: Float[Array, "*batch K"],
    temperature: Float[Array, "..."],
) -> tuple[Float[Array, "*batch"], Array]:
    """The log density in log space, and which entries are left out of it as impossible.

    `present` tells which entries of y are not 0.
    """
    largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    # The comparison is false for a row that is all -inf, whose density is NaN.
    out = (logits <= largest - CERTAIN) & jnp.isfinite(largest) & ~jnp.isnan(log_y)
    # Finite, so that an infinite log ratio gives a density of 0 and not NaN.
    finite_log_y = jnp.maximum(jnp.where(out, 0, log_y), -1e30)
    scores = jnp.where(out, -jnp.inf, logits - temperature * finite_log_y)
    # Off the face where impossible entries are 0 the density is 0.
    left_out = jnp.where(present, -jnp.inf, 0)
    terms = jnp.where(out, left_out, jax.nn.log_softmax(scores, axis=-1))
    size = scores.shape[-1]
    num_possible = size - jnp.sum(out, axis=-1, keepdims=True, dtype=scores.dtype)
    log_gamma = jnp.where(num_possible == size, math.lgamma(size), jax.lax.lgamma(num_possible))
    constant = log_gamma + (num_possible - 1) * jnp.log(temperature)
    return jnp.squeeze(constant, axis=-1) + jnp.sum(terms, axis=-1), out


def _logit_log_density(
    logit_y: Float[Array, "..."],
    logits: Float[Array, "..."],
    temperature: Float[Array, "..."],
    at_its_end: Array,
) -> Float[Array, "..."]:
    """The log density in log space; `at_its_end` tells where a constant variable would be."""
    certain = (jnp.abs(logits) >= CERTAIN) & ~jnp.isnan(logit_y)
    noise = temperature * jnp.where(certain, 0, logit_y) - jnp.where(certain, 0, logits)
    log_prob = jnp.log(temperature) - softplus(-noise) - softplus(noise)
    constant = jnp.where(at_its_end, 0, -jnp.inf) + (temperature - temperature)  # NaN if it is
    return jnp.where(certain, constant, log_prob)


def _log_clamped(y: Float[Array, "..."]) -> Float[Array, "..."]:
    """`log(max(y, floor))`, with a floor far enough above the smallest float for a finite `1 / y`.

    A selection, not `jnp.maximum`, whose gradient under the floor would be 0 times a large number.
    """
    info = jnp.finfo(y.dtype)
    floor = float(info.tiny) / float(info.eps)
    return jnp.log(jnp.where(y <= floor, floor, y))
