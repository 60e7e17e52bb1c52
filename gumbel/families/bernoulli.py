"""Binary variables."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.nn import sigmoid
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array

from gumbel import conditional, densities, relaxations, sampling
from gumbel.arguments import check_broadcast, check_key, check_point, floating
from gumbel.families.base import Family, PerVariable, Values
from gumbel.numerics import CERTAIN, same_rank, softplus, upcast, widened
from gumbel.types import PRNGKey


@dataclasses.dataclass(frozen=True)
class Bernoulli(Family):
    """Binary variables, `P(z = 1) = sigmoid(logits)`, logits `[..., D]`.

    Example:
      >>> BERNOULLI.mean(jnp.array([-jnp.inf, 0.0, jnp.inf])).tolist()
      [0.0, 0.5, 1.0]
    """

    name: ClassVar[str] = "bernoulli"
    event_ndims: ClassVar[int] = 0

    def sample(self, key: PRNGKey, logits: Values) -> Values:
        """See `gumbel.sampling.bernoulli`."""
        check_key(key)
        return sampling.bernoulli(key, floating(logits))

    def relax(
        self, key: PRNGKey, logits: Values, temperature: ArrayLike, *, hard: bool = False
    ) -> Values:
        """See `gumbel.relaxations.binary_concrete`."""
        return relaxations.binary_concrete(key, logits, temperature, hard=hard)

    def conditional_noise(self, key: PRNGKey, logits: Values, z: Values) -> Values:
        """See `gumbel.conditional.conditional_logistic_noise`."""
        return conditional.conditional_logistic_noise(key, logits, z)

    def soften(self, logits: Values, noise: Values, temperature: ArrayLike) -> Values:
        """See `gumbel.relaxations.soft_bernoulli`."""
        return relaxations.soft_bernoulli(logits, noise, temperature)

    def mean(self, logits: Values) -> Values:
        """`sigmoid(logits)`."""
        logits = floating(logits)
        return sigmoid(upcast(logits)).astype(logits.dtype)

    def uniform_mean(self, logits: Values) -> Values:
        """1/2, or the value of a constant variable, 0 or 1."""
        logits = jax.lax.stop_gradient(floating(logits))
        wide = upcast(logits)
        constant = jnp.abs(wide) >= CERTAIN
        mean = jnp.where(constant, sigmoid(wide), 0.5)
        return jnp.where(jnp.isnan(wide), wide, mean).astype(logits.dtype)

    def log_prob(self, logits: Values, z: Values) -> PerVariable:
        """`z * logits - log(1 + exp(logits))`."""
        logits, z = _pair(logits, z)
        # A constant variable: log 1 for the value that it has, log 0 for any other.
        constant = jnp.isinf(logits) & ~jnp.isnan(z)
        finite = jnp.where(constant, 0, logits)
        log_prob = z * finite - softplus(finite)
        has_value = z == (logits > 0).astype(z.dtype)
        return jnp.where(constant, jnp.where(has_value, 0, -jnp.inf), log_prob)

    def entropy(self, logits: Values) -> PerVariable:
        """`-p log p - (1 - p) log(1 - p)`, with `p = sigmoid(logits)`."""
        x = _finite(upcast(logits))
        # softplus(-x) = -log p: each term is small where the entropy is.
        return sigmoid(x) * softplus(-x) + sigmoid(-x) * softplus(x)

    def kl(self, logits_q: Values, logits_p: Values) -> PerVariable:
        """`q log(q / p) + (1 - q) log((1 - q) / (1 - p))`."""
        logits_q, logits_p = jnp.asarray(logits_q), jnp.asarray(logits_p)
        check_broadcast(logits_q, logits_p, event_ndims=0)
        q, p = same_rank(*widened(logits_q, logits_p))
        finite_q, finite_p = _finite(q), _finite(p)
        one = sigmoid(q) * (softplus(-finite_p) - softplus(-finite_q))
        zero = sigmoid(-q) * (softplus(finite_p) - softplus(finite_q))
        excluded = jnp.where(p > 0, sigmoid(-q), sigmoid(q))  # mass of q that p may not have
        return jnp.where(jnp.isinf(p) & (excluded > 0), jnp.inf, one + zero)

    def relaxed_log_prob(self, logits: Values, z: Values, temperature: ArrayLike) -> PerVariable:
        """See `gumbel.densities.binary_concrete_log_prob`."""
        return densities.binary_concrete_log_prob(z, logits, temperature)

    def num_values(self, logits_shape: tuple[int, ...]) -> int:
        """2."""
        return 2

    def _encode(self, values: Array, event_shape: tuple[int, ...], dtype: DTypeLike) -> Values:
        return values.astype(dtype).reshape(event_shape)


BERNOULLI = Bernoulli()


def _pair(logits: Values, z: Values) -> tuple[Values, Values]:
    logits = jnp.asarray(logits)
    check_point(z, logits, event_ndims=0)
    logits, z = same_rank(*widened(logits, z))
    return logits, z


def _finite(x: Values) -> Values:
    """Clips infinite log odds, so that they can be multiplied by a probability of 0."""
    return jnp.clip(x, -1e30, 1e30)
