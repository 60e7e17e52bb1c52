"""Discrete samples that keep the probability of rare values.

For up to 1,000,000 values, the frequency of any set with total probability of at least 1e-6 is
accurate to 1%. A value of probability 0 is never drawn.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gumbel.noise import exponential, uniform, words
from gumbel.numerics import upcast
from gumbel.tracing import divided_as, whole
from gumbel.types import PRNGKey

Indices = Int[Array, "*batch"]
Zero = Float[Array, "..."]  # 0, or NaN for a variable that has no probabilities

# Up to this K one uniform number per variable is enough. Rounding the probabilities to multiples of
# 2^-31 and the threshold to a multiple of 2^-32 changes that of any set by less than 1e-8.
_MAX_BY_CDF = 24
# A little under 2^31, so that a sum of rounded probabilities stays below it.
_SCALE = 2.0**31 * (1 - 2.0**-18)


def bernoulli(key: PRNGKey, logits: Float[Array, "..."]) -> Float[Array, "..."]:
    """Draws 1 with probability `sigmoid(logits)`, else 0; NaN where the logit is NaN.

    The uniform number is compared with the probability of the rarer value, which has full relative
    precision.
    """
    wide = jax.lax.stop_gradient(logits).astype(jnp.float32)
    rarer = uniform(key, wide.shape) < jax.nn.sigmoid(-jnp.abs(wide))
    z = (rarer ^ (wide > 0)).astype(jnp.float32)
    return jnp.where(jnp.isnan(wide), wide, z).astype(logits.dtype)


def categorical(key: PRNGKey, logits: Float[Array, "*batch K"]) -> Float[Array, "*batch K"]:
    """Draws one-hot vectors; NaN where a logit is NaN or inf, or all of a variable are -inf."""
    if not logits.size:
        return jnp.zeros_like(logits)
    wide = whole(upcast(jax.lax.stop_gradient(logits)), -1)
    draw = _by_cdf if logits.shape[-1] <= _MAX_BY_CDF else _by_race
    index, zero = (value[..., None] for value in draw(key, wide))
    values = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    z = jnp.where(values == index, 1 + zero, zero).astype(logits.dtype)
    return divided_as(z, like=logits)


def _by_cdf(key: PRNGKey, logits: Float[Array, "*batch K"]) -> tuple[Indices, Zero]:
    """The first value at which the cumulative probability passes a uniform threshold.

    In whole multiples of 2^-31 partial sums are exact whatever their order, so the CDF never
    decreases. K is the leading axis here, so that each sum is a few vectorized additions.
    """
    weights, zero = _weights(jnp.moveaxis(logits, -1, 0), axis=0)
    total = jnp.sum(weights, axis=0, keepdims=True)
    counts = jnp.round(weights * (_SCALE / total)).astype(jnp.int32)
    cdf = list(itertools.accumulate(counts[k] for k in range(counts.shape[0])))
    threshold = _scaled(words(key, logits.shape[:-1]), cdf[-1])
    index = sum((reached <= threshold).astype(jnp.int32) for reached in cdf)
    return jnp.asarray(index), zero[0]


def _scaled(word: Array, total: Int[Array, "..."]) -> Int[Array, "..."]:
    """`word * total / 2^32`, rounded down or up to 2 less, from products that fit 32 bits."""
    total = total.astype(jnp.uint32)
    half, low = np.uint32(16), np.uint32(0xFFFF)
    high_product = (word >> half) * (total >> half)
    cross = ((word >> half) * (total & low) >> half) + ((word & low) * (total >> half) >> half)
    return (high_product + cross).astype(jnp.int32)


def _by_race(key: PRNGKey, logits: Float[Array, "*batch K"]) -> tuple[Indices, Zero]:
    """`argmin_k E_k / p_k` with E exponential, first among blocks of values, then in the block.

    It takes about 2 sqrt(K) random numbers. Unlike a CDF, in which a rare value is lost among the
    digits of a sum near 1, it compares each probability with its own number.
    """
    size = logits.shape[-1]
    block_size = 1 << (size.bit_length() // 2)
    padding = [(0, 0)] * (logits.ndim - 1) + [(0, -size % block_size)]
    blocks = jnp.pad(logits, padding, constant_values=-jnp.inf)
    blocks = blocks.reshape(*logits.shape[:-1], -1, block_size)
    blocks_key, value_key = jax.random.split(key)
    weights, zero = _weights(blocks, axis=(-2, -1))
    block = _winner(blocks_key, jnp.sum(weights, axis=-1))
    chosen = jnp.take_along_axis(blocks, block[..., None, None], axis=-2)[..., 0, :]
    value = _winner(value_key, _weights(chosen, axis=-1)[0])
    return block * block_size + value, zero[..., 0, 0]


def _weights(logits: Array, axis: int | tuple[int, int]) -> tuple[Array, Zero]:
    """`exp(logits - max)` along `axis`, and 0 if the maximum is finite, else NaN.

    Only the differences are cast to float32: an offset of float64 logits would swallow digits.
    """
    largest = jnp.max(logits, axis=axis, keepdims=True)
    zero = largest - largest
    below = logits - jnp.where(jnp.isnan(zero), 0, largest)
    return jnp.exp(below.astype(jnp.float32)), zero


def _winner(key: PRNGKey, weights: Float[Array, "*batch K"]) -> Indices:
    return jnp.argmin(exponential(key, weights.shape) / weights, axis=-1).astype(jnp.int32)
