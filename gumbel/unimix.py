"""Logits of a mixture with the uniform distribution."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from gumbel.arguments import categorical_logits, check_broadcasts_to, check_per_row, floating
from gumbel.numerics import CERTAIN, concrete_or_none, upcast


def unimix(logits: Float[Array, "*batch K"], share: ArrayLike) -> Float[Array, "*batch K"]:
    """Logits of `(1 - share) softmax(logits) + share / K`, so that no value becomes impossible.

    Values with a tiny probability still get gradients, and log probabilities and KLs stay bounded.
    Values that are excluded by a logit of -inf (or of 1e8 less than the largest) stay excluded, and
    the uniform distribution is over the others.

    Args:
      logits: unnormalized log probabilities.
      share: share of the uniform distribution, in [0, 1], a scalar or one per row, `[..., 1]`;
        0.01 is usual. A traced value out of range gives NaN.

    Returns:
      Log probabilities, of the shape and dtype of `logits`.

    Raises:
      ValueError: a concrete `share` is not in [0, 1], or it does not broadcast to `logits`.
      TypeError: `logits` are not floating-point.

    Source: Hafner, Pasukonis, Ba and Lillicrap (2023), DreamerV3.

    Example:
      >>> [round(p, 3) for p in jnp.exp(unimix(jnp.array([1e4, 0.0]), 0.01)).tolist()]
      [0.995, 0.005]
    """
    logits = categorical_logits(logits)
    check_per_row(share, "share")
    check_broadcasts_to(share, logits, "share")
    share = _checked_share(share)
    wide = upcast(logits)
    possible = wide > jnp.max(wide, axis=-1, keepdims=True) - CERTAIN
    count = jnp.sum(possible, axis=-1, keepdims=True)
    log_p = jax.nn.log_softmax(wide, axis=-1)
    finite = jnp.where(possible, log_p, 0)
    mixed = _mixed(finite, share, jnp.log(jnp.maximum(count, 1).astype(wide.dtype)))
    kept = jnp.where(possible, mixed, -jnp.inf)
    return jnp.where(jnp.isnan(log_p), log_p, kept).astype(logits.dtype)


def binary_unimix(logits: Float[Array, "..."], share: ArrayLike) -> Float[Array, "..."]:
    """Log odds of `(1 - share) sigmoid(logits) + share / 2`: `unimix` of Bernoulli variables.

    Infinite log odds stay infinite: the variable is constant.

    Args:
      logits: log odds.
      share: share of the uniform distribution, in [0, 1], a scalar or one per variable. A
        traced value out of range gives NaN.

    Returns:
      Log odds, of the shape and dtype of `logits`.

    Raises:
      ValueError: a concrete `share` is not in [0, 1], or it does not broadcast to `logits`.
      TypeError: `logits` are not floating-point.

    Example:
      >>> round(float(jax.nn.sigmoid(binary_unimix(jnp.array(50.0), 0.02))), 4)
      0.99
    """
    logits = floating(logits)
    check_broadcasts_to(share, logits, "share")
    wide = upcast(logits)
    constant = jnp.abs(wide) >= CERTAIN
    finite = jnp.where(constant, 0, wide)
    each = share if jnp.ndim(share) == 0 else jnp.asarray(share)[..., None]
    both = unimix(jnp.stack([jnp.zeros_like(finite), finite], axis=-1), each)
    mixed = both[..., 1] - both[..., 0]
    return jnp.where(constant, wide, mixed).astype(logits.dtype)


def _checked_share(share: ArrayLike) -> Float[Array, "..."]:
    """The share; NaN where it is traced and turns out not to be in [0, 1]."""
    known = concrete_or_none(share)
    if known is not None and not ((known >= 0) & (known <= 1)).all():
        raise ValueError(f"share must be in [0, 1], got {share}")
    share = upcast(share)
    valid = (share >= 0) & (share <= 1)
    return share if known is not None else jnp.where(valid, share, jnp.nan)


@jax.custom_jvp
def _mixed(
    log_p: Float[Array, "..."], share: Float[Array, "..."], log_count: Float[Array, "..."]
) -> Float[Array, "..."]:
    """`log((1 - share) p + share / count)`.

    Without the exponential of `log_p`, which underflows for a value far below the others.
    """
    return jnp.logaddexp(_log(1 - share) + log_p, _log(share) - log_count)


@_mixed.defjvp
def _mixed_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    # The derivative in the share is finite at 0 and 1, where that of its logarithm is not.
    log_p, share, log_count = primals
    mixed = _mixed(*primals)
    largest = jnp.log(jnp.finfo(mixed.dtype).max) - 1
    by_share = jnp.exp(jnp.minimum(-log_count - mixed, largest)) - jnp.exp(log_p - mixed)
    by_log_p = jnp.exp(_log(1 - share) + log_p - mixed)
    return mixed, by_log_p * tangents[0] + by_share * tangents[1]


def _log(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """`log x`, -inf at 0, with a finite gradient; NaN for NaN."""
    return jnp.where(x == 0, -jnp.inf, jnp.log(jnp.where(x == 0, 1, x)))
