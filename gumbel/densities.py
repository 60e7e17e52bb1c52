"""Log densities of the relaxed samples, on the simplex and in log space.

Results are in nats and in float32 at least, for 16-bit inputs too: they are sums whose range and
resolution 16 bits cannot hold. Logits need not be normalised.

Near a corner of the simplex the simplex forms lose digits, because `y` itself rounds to 0 or 1
there. Where that matters, as at temperatures below about 0.3, sample by `exp_gumbel_softmax` or
`logit_binary_concrete` of `gumbel.relaxations` and use the log-space forms, which do not. A ratio
of two densities, and so a KL, is the same in either form.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from gumbel.numerics import upcast, upcast_saturating
from gumbel.relaxations import check_per_row, check_temperature


def gumbel_softmax_log_prob(
    y: Float[Array, "*batch K"], logits: Float[Array, "*batch K"], temperature: ArrayLike
) -> Float[Array, "*batch"]:
    """The log density of a `gumbel_softmax` sample, with respect to `dy_1 ... dy_{K-1}`.

    With `pi = softmax(logits)` and `tau` the temperature,

        p(y) = Gamma(K) tau^(K-1) (sum_i pi_i / y_i^tau)^(-K) prod_i (pi_i / y_i^(tau+1)).

    Args:
      y: points of the simplex. In float32 entries below 1e-31 count as 1e-31, with gradient 0,
        so that value and gradient are finite at the corners too.
      logits: unnormalised log probabilities, finite; broadcast against `y`.
      temperature: positive; a scalar, or one per row, of shape `[..., 1]`.

    Returns:
      Log densities in nats.

    Raises:
      ValueError: a known `temperature` is not positive and finite, or it is not one per row.

    References:
      Jang, Gu, Poole 2017, appendix B.

    Example:
      >>> float(gumbel_softmax_log_prob(jnp.array([0.5, 0.5]), jnp.zeros(2), 1.0))
      0.0
    """
    log_y = _log_clamped(upcast_saturating(y))
    return exp_gumbel_softmax_log_prob(log_y, logits, temperature) - jnp.sum(log_y, axis=-1)


def exp_gumbel_softmax_log_prob(
    log_y: Float[Array, "*batch K"], logits: Float[Array, "*batch K"], temperature: ArrayLike
) -> Float[Array, "*batch"]:
    """The log density of an `exp_gumbel_softmax` sample, that of its log ratios `log(y_i / y_K)`.

    With `tau` the temperature it is

        log Gamma(K) + (K - 1) log tau + sum_i log_softmax(logits - tau log_y)_i,

    with respect to the K - 1 log ratios, or `dy_1 ... dy_{K-1} / (y_1 ... y_K)`. So it equals the
    simplex form plus `sum_i log y_i`.

    Args:
      log_y: logarithms of points of the simplex, finite.
      logits: unnormalised log probabilities, finite; broadcast against `log_y`.
      temperature: positive; a scalar, or one per row, of shape `[..., 1]`.

    Returns:
      Log densities in nats.

    Raises:
      ValueError: a known `temperature` is not positive and finite, or it is not one per row.

    References:
      Maddison, Mnih, Teh 2017, The concrete distribution, appendix C.3.

    Example:
      >>> corner = jnp.array([0.0, -5000.0])
      >>> round(float(exp_gumbel_softmax_log_prob(corner, jnp.zeros(2), 0.1)))
      -502
    """
    check_temperature(temperature)
    check_per_row(temperature)
    temperature = upcast_saturating(temperature)
    scores = upcast(logits) - temperature * upcast_saturating(log_y)
    size = scores.shape[-1]
    constant = math.lgamma(size) + (size - 1) * jnp.log(temperature)
    if constant.ndim:
        constant = jnp.squeeze(constant, axis=-1)
    return constant + jnp.sum(jax.nn.log_softmax(scores, axis=-1), axis=-1)


def binary_concrete_log_prob(
    y: Float[Array, "..."], logits: Float[Array, "..."], temperature: ArrayLike
) -> Float[Array, "..."]:
    """The log density of a `binary_concrete` sample on (0, 1), elementwise.

    `log p(y) = log p(logit(y)) - log y - log(1 - y)`, with `log p(logit(y))` as in
    `logit_binary_concrete_log_prob`.

    Args:
      y: values in [0, 1]. In float32 those below 1e-31 count as 1e-31 and those over 1 - 6e-8 as
        1 - 6e-8, with gradient 0, so that value and gradient are finite at 0 and 1 too.
      logits: log odds, finite.
      temperature: positive; broadcasts against `y`.

    Returns:
      Log densities in nats.

    Raises:
      ValueError: a known `temperature` is not positive and finite.

    References:
      Jang, Gu, Poole 2017, appendix B with k = 2; Maddison, Mnih, Teh 2017, appendix B.

    Example:
      >>> abs(float(binary_concrete_log_prob(jnp.array(0.25), jnp.array(0.0), 1.0))) < 1e-6
      True
    """
    y = upcast_saturating(y)
    below_one = 1 - float(jnp.finfo(y.dtype).epsneg)
    log_y = _log_clamped(y)
    log_not_y = jnp.log1p(-jnp.where(y < below_one, y, below_one))
    log_prob = logit_binary_concrete_log_prob(log_y - log_not_y, logits, temperature)
    return log_prob - log_y - log_not_y


def logit_binary_concrete_log_prob(
    logit_y: Float[Array, "..."], logits: Float[Array, "..."], temperature: ArrayLike
) -> Float[Array, "..."]:
    """The log density of a `logit_binary_concrete` sample on the real line, elementwise.

    `log tau + log sigmoid(l) + log sigmoid(-l)` with `tau` the temperature and
    `l = tau * logit_y - logits`: a logistic distribution of mean `logits / tau`, scale `1 / tau`.

    Args:
      logit_y: log odds of the sample, finite.
      logits: log odds of the variable, finite.
      temperature: positive; broadcasts against `logit_y`.

    Returns:
      Log densities in nats.

    Raises:
      ValueError: a known `temperature` is not positive and finite.

    References:
      Maddison, Mnih, Teh 2017, appendix C.3.

    Example:
      >>> log_prob = logit_binary_concrete_log_prob(jnp.array(0.0), jnp.array(0.0), 1.0)
      >>> round(float(jnp.exp(log_prob)), 6)
      0.25
    """
    check_temperature(temperature)
    temperature = upcast_saturating(temperature)
    noise = temperature * upcast_saturating(logit_y) - upcast(logits)
    return jnp.log(temperature) + jax.nn.log_sigmoid(noise) + jax.nn.log_sigmoid(-noise)


def _log_clamped(y: Float[Array, "..."]) -> Float[Array, "..."]:
    """`log(max(y, floor))`, the floor so far over the smallest float that `1 / y` has headroom.

    A selection, not `jnp.maximum`, whose gradient under the floor would be 0 times a large number.
    """
    info = jnp.finfo(y.dtype)
    floor = float(info.tiny) / float(info.eps)
    return jnp.log(jnp.where(y > floor, y, floor))
