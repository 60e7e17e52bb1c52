"""Subsets of k of K values: sampled without replacement, their probabilities, and relaxations."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from gumbel.arguments import (
    as_integer,
    categorical_logits,
    check_key,
    check_point,
    noise_temperature,
)
from gumbel.numerics import CERTAIN, upcast
from gumbel.relaxations import perturb, straight_through
from gumbel.tracing import whole
from gumbel.types import PRNGKey


def gumbel_top_k(
    key: PRNGKey, logits: Float[Array, "*batch K"], k: int
) -> tuple[Float[Array, "*batch k K"], Float[Array, "*batch"]]:
    """Draws `k` distinct values one after the other, and their log probability in this order.

    The first is a sample from `softmax(logits)`, each further one from the remaining values,
    renormalized. They are the `k` largest of `logits_i + g_i` with `g_i` Gumbel(0, 1).

    Args:
      key: PRNG key.
      logits: unnormalized log probabilities; -inf rules a value out.
      k: how many, from 1 to K.

    Returns:
      One-hot vectors of the dtype of `logits`, through which no gradient flows, and
      `ordered_log_prob` of them, which is differentiable in `logits`. Both are NaN where fewer than
      `k` values are possible.

    Raises:
      ValueError: k is not from 1 to K, or K is 0.
      TypeError: `key` is not one PRNG key, `logits` are not floating-point, or `k` is not an
        integer.

    Source: Kool, van Hoof and Welling (2019), stochastic beam search.

    Example:
      >>> z, log_prob = gumbel_top_k(jax.random.key(0), jnp.array([0.0, 100.0, 200.0]), 2)
      >>> z.tolist(), abs(float(log_prob)) < 1e-6
      ([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]], True)
    """
    check_key(key)
    logits = whole(categorical_logits(logits), -1)
    k = _checked_size(k, logits.shape[-1])
    scores, index = jax.lax.top_k(perturb(key, jax.lax.stop_gradient(logits)), k)
    z = jax.nn.one_hot(index, logits.shape[-1], dtype=logits.dtype)
    complete = jnp.all(scores > -CERTAIN, axis=-1)
    z = jnp.where(complete[..., None, None], z, jnp.nan)
    return z, ordered_log_prob(logits, z)


def ordered_log_prob(
    logits: Float[Array, "*batch K"], z: Float[Array, "*batch k K"]
) -> Float[Array, "*batch"]:
    """The log probability of drawing these values in this order without replacement.

        sum_i log [ p(z_i) / (1 - sum_{j < i} p(z_j)) ]

    Args:
      logits: unnormalized log probabilities; -inf rules a value out.
      z: `k` distinct one-hot vectors, the first one drawn first.

    Returns:
      Log probabilities in nats, at least float32; -inf if a value is excluded or repeated, NaN if
      all values are excluded.

    Raises:
      ValueError: `z` does not fit `logits`, or K is 0.
      TypeError: `logits` are not floating-point.

    Source: Plackett (1975), The analysis of permutations.

    Example:
      >>> z = jnp.eye(3)[:2]
      >>> round(float(jnp.exp(ordered_log_prob(jnp.log(jnp.array([0.5, 0.3, 0.2])), z))), 4)
      0.3
    """
    logits = whole(upcast(categorical_logits(logits)), -1)
    check_point(z, logits[..., None, :], event_ndims=1)
    chosen = upcast(jax.lax.stop_gradient(z))
    largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    impossible = logits <= largest - CERTAIN
    taken = jnp.cumsum(chosen, axis=-2) - chosen > 0.5
    left = jnp.where(taken | impossible[..., None, :], -jnp.inf, logits[..., None, :])
    none_left = jnp.max(left, axis=-1, keepdims=True) == -jnp.inf
    log_p = jax.nn.log_softmax(jnp.where(none_left, 0, left), axis=-1)
    parts = jnp.where(chosen > 0, jnp.where(none_left, -jnp.inf, log_p), 0) + 0 * chosen
    return jnp.sum(parts, axis=(-2, -1)) + jnp.squeeze(largest - largest, axis=-1)


def relaxed_top_k(
    key: PRNGKey,
    logits: Float[Array, "*batch K"],
    k: int,
    temperature: ArrayLike,
    *,
    hard: bool = False,
) -> Float[Array, "*batch K"]:
    """A relaxed subset of `k` values, drawn without replacement.

    It is a sum of `k` softmaxes of the perturbed logits `a`. Each softly excludes what the earlier
    ones selected:

        y = sum_i p_i,    p_i = softmax(a_i / temperature),    a_{i+1} = a_i + log(1 - p_i)

    Args:
      key: PRNG key; with the same one, `hard` gives the values of `gumbel_top_k`.
      logits: unnormalized log probabilities; -inf rules a value out.
      k: how many, from 1 to K.
      temperature: positive; a scalar, or one per row, of shape `[..., 1]`.
      hard: straight-through variant, whose value is exactly k-hot and whose gradient is that of
        the relaxed subset.

    Returns:
      Nonnegative vectors with sum `k`, in the shape and dtype of `logits`. An entry can exceed 1:
      selection with weight `p` lowers a logit by only `-log(1 - p)`, so a later softmax may select
      the same value again. NaN where fewer than `k` values are possible.

    Raises:
      ValueError: k is not from 1 to K, or K is 0, or a concrete (not traced) `temperature` is not
        positive and finite, or it is not one per row.
      TypeError: `key` is not one PRNG key, `logits` are not floating-point, `k` is not an integer,
        or `temperature` is not a number or an array.

    Source: Xie and Ermon (2019), Reparameterizable subset sampling via continuous relaxations.

    Example:
      >>> relaxed_top_k(jax.random.key(0), jnp.array([0.0, 90.0, 95.0]), 2, 1.0, hard=True).tolist()
      [0.0, 1.0, 1.0]
    """
    check_key(key)
    logits = whole(categorical_logits(logits), -1)
    k = _checked_size(k, logits.shape[-1])
    temperature = noise_temperature(temperature, upcast(logits), per_row=True)
    perturbed = perturb(key, logits)

    def step(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
        left, gone = carry
        scores = jnp.where(gone, -jnp.inf, jnp.where(gone, 0, left) / temperature)
        some = jnp.any(~gone, axis=-1, keepdims=True)
        p = jnp.where(some, jax.nn.softmax(jnp.where(some, scores, 0), axis=-1), 0)
        # A value that is fully selected is gone: log(1 - p) would be -inf, without a derivative.
        whole = p > 1 - 2.0**-20
        return (left + jnp.log1p(-jnp.where(whole, 0, p)), gone | whole), p

    impossible = perturbed <= -CERTAIN
    _, parts = jax.lax.scan(step, (perturbed, impossible), None, length=k)
    complete = jnp.sum(~impossible, axis=-1, keepdims=True) >= k
    soft = jnp.where(complete, jnp.sum(parts, axis=0), jnp.nan).astype(logits.dtype)
    if not hard:
        return soft
    _, index = jax.lax.top_k(jax.lax.stop_gradient(perturbed), k)
    value = jnp.sum(jax.nn.one_hot(index, logits.shape[-1], dtype=logits.dtype), axis=-2)
    return straight_through(jnp.where(jnp.isnan(soft), soft, value), soft)


def _checked_size(k: int, num_values: int) -> int:
    k = as_integer(k, "k")
    if not 1 <= k <= num_values:
        raise ValueError(
            f"k={k} distinct values of {num_values} cannot be drawn: give k from 1 to {num_values}"
        )
    return k
