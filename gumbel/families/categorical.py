"""One-hot variables."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.nn import log_softmax, softmax
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array

from gumbel import conditional, densities, relaxations, sampling
from gumbel.arguments import categorical_logits, check_broadcast, check_key, check_point
from gumbel.families.base import Family, PerVariable, Values
from gumbel.numerics import CERTAIN, same_rank, upcast, widened
from gumbel.types import PRNGKey


@dataclasses.dataclass(frozen=True)
class Categorical(Family):
    """One-hot variables, `P(z_k = 1) = softmax(logits)_k`, logits `[..., D, K]`.

    Example:
      >>> CATEGORICAL.entropy(jnp.zeros((1, 2, 4))).shape
      (1, 2)
    """

    name: ClassVar[str] = "categorical"
    event_ndims: ClassVar[int] = 1

    def sample(self, key: PRNGKey, logits: Values) -> Values:
        """See `gumbel.sampling.categorical`."""
        check_key(key)
        return sampling.categorical(key, categorical_logits(logits))

    def relax(
        self, key: PRNGKey, logits: Values, temperature: ArrayLike, *, hard: bool = False
    ) -> Values:
        """See `gumbel.relaxations.gumbel_softmax`."""
        return relaxations.gumbel_softmax(key, logits, temperature, hard=hard)

    def conditional_noise(self, key: PRNGKey, logits: Values, z: Values) -> Values:
        """See `gumbel.conditional.conditional_gumbel_noise`."""
        return conditional.conditional_gumbel_noise(key, logits, z)

    def soften(self, logits: Values, noise: Values, temperature: ArrayLike) -> Values:
        """See `gumbel.relaxations.soft_categorical`."""
        return relaxations.soft_categorical(logits, noise, temperature)

    def mean(self, logits: Values) -> Values:
        """`softmax(logits)`."""
        logits = categorical_logits(logits)
        return softmax(upcast(logits), axis=-1).astype(logits.dtype)

    def uniform_mean(self, logits: Values) -> Values:
        """1/K, or 0 and 1 over the number of the others where some values are ruled out."""
        wide = upcast(jax.lax.stop_gradient(categorical_logits(logits)))
        largest = jnp.max(wide, axis=-1, keepdims=True)
        possible = (wide > largest - CERTAIN).astype(wide.dtype)
        # Plus 0, or NaN throughout a variable that has no probabilities.
        mean = possible / jnp.maximum(jnp.sum(possible, axis=-1, keepdims=True), 1)
        return (mean + (largest - largest)).astype(jnp.asarray(logits).dtype)

    def log_prob(self, logits: Values, z: Values) -> PerVariable:
        """`sum_k z_k log softmax(logits)_k`, with `0 log 0 = 0`."""
        logits = _with_values(logits)
        check_point(z, logits, event_ndims=1)
        logits, z = same_rank(*widened(logits, z))
        log_p = log_softmax(logits, axis=-1)
        excluded = jnp.where(jnp.isneginf(log_p) & (z != 0), -jnp.inf, 0)
        return jnp.sum(z * _finite(log_p) + excluded, axis=-1)

    def entropy(self, logits: Values) -> PerVariable:
        """`-sum_k p_k log p_k`, with `p = softmax(logits)`."""
        log_p = log_softmax(upcast(_with_values(logits)), axis=-1)
        return -jnp.sum(jnp.exp(log_p) * _finite(log_p), axis=-1)

    def kl(self, logits_q: Values, logits_p: Values) -> PerVariable:
        """`sum_k q_k (log q_k - log p_k)`."""
        logits_q, logits_p = _with_values(logits_q), _with_values(logits_p)
        check_broadcast(logits_q, logits_p, event_ndims=1)
        wide_q, wide_p = same_rank(*widened(logits_q, logits_p))
        log_q, log_p = log_softmax(wide_q, axis=-1), log_softmax(wide_p, axis=-1)
        q = jnp.exp(log_q)
        excluded = jnp.where(jnp.isneginf(log_p) & (q > 0), jnp.inf, 0)
        return jnp.sum(q * (_finite(log_q) - _finite(log_p)) + excluded, axis=-1)

    def relaxed_log_prob(self, logits: Values, z: Values, temperature: ArrayLike) -> PerVariable:
        """See `gumbel.densities.gumbel_softmax_log_prob`."""
        return densities.gumbel_softmax_log_prob(z, logits, temperature)

    def num_values(self, logits_shape: tuple[int, ...]) -> int:
        """K."""
        if not logits_shape or not logits_shape[-1]:
            raise ValueError(f"categorical logits of shape {logits_shape} have no values: K >= 1")
        return logits_shape[-1]

    def _encode(self, values: Array, event_shape: tuple[int, ...], dtype: DTypeLike) -> Values:
        return jax.nn.one_hot(values, event_shape[-1], dtype=dtype).reshape(event_shape)


CATEGORICAL = Categorical()


def _with_values(logits: Values) -> Values:
    """`logits` that have at least one value, of any dtype."""
    logits = jnp.asarray(logits)
    return categorical_logits(
        logits if jnp.issubdtype(logits.dtype, jnp.floating) else upcast(logits)
    )


def _finite(log_p: Values) -> Values:
    """0 in place of -inf, so that it can be multiplied by a probability of 0."""
    return jnp.where(jnp.isneginf(log_p), 0, log_p)
