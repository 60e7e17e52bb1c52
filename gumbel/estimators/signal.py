"""Centering and scaling of a learning signal by moving averages, for score-function estimators.

A score-function estimate is `signal * grad log q(z)`. Subtracting a number that does not depend on
`z` leaves its expectation alone and usually lowers its variance; dividing by a scale evens out the
size of the steps (and so changes the expectation by that factor).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gumbel.estimators.options import Range
from gumbel.numerics import finite_or

DECAY = Range(minimum=0.0, below=1.0)
SCALED = ("variance_normalization", True)


class SignalState(NamedTuple):
    """Moving averages of the learning signal's mean (nats) and variance (nats^2)."""

    mean: Float[Array, ""]
    variance: Float[Array, ""]


class Normalizer(NamedTuple):
    """`(signal - mean) / max(1, sigma)`, each part an option.

    The averages are those of earlier batches: they do not depend on this batch's samples, which
    is what keeps the centered estimate unbiased.

    Attributes:
      centering: subtract the moving average of the signal.
      variance_normalization: divide by `max(1, sigma)`.
      decay: decay of both averages, in [0, 1).

    Source: Mnih and Gregor (2014), section 2.3.
    """

    centering: bool
    variance_normalization: bool
    decay: float

    def init(
        self, signal: Float[Array, "..."], where: Bool[Array, "..."] | None = None
    ) -> SignalState:
        """Starts the averages from the signal of one batch, so that the first step is centered.

        Args:
          signal: signal of the batch.
          where: which entries count; by default, all.
        """
        signal = jax.lax.stop_gradient(signal).astype(jnp.float32)
        state = SignalState(jnp.mean(signal, where=where), jnp.var(signal, where=where))
        return finite_or(state, SignalState(*map(jnp.zeros_like, state)))

    def update(
        self,
        state: SignalState,
        signal: Float[Array, "..."],
        spread_of: Float[Array, "..."] | None = None,
        of_one: bool | None = None,
        where: Bool[Array, "..."] | None = None,
    ) -> SignalState:
        """Moves the averages toward the statistics of this batch's signal.

        A batch whose signal is not finite does not move them: it would spoil them forever. The
        signal of a single cost, such as that of coupled examples, has its squared distance from the
        average instead of a variance of its own.

        Args:
          state: the averages of earlier batches.
          signal: signal of this batch.
          spread_of: values whose variance is averaged; by default, the centered signal.
          of_one: whether the signal is that of a single cost, possibly in several layers; by
            default, whether it is a single number.
          where: which entries of the signal count; by default, all.
        """
        mean = jnp.mean(jax.lax.stop_gradient(signal).astype(jnp.float32), where=where)
        if spread_of is None:
            spread_of = signal - state.mean.astype(signal.dtype)
        spread = jax.lax.stop_gradient(spread_of)
        if of_one is None:
            of_one = spread.size == 1
        if of_one:
            variance = jnp.mean(jnp.square(spread), where=where)
        else:
            variance = jnp.var(spread, where=where)
        moved = SignalState(
            self.decay * state.mean + (1 - self.decay) * mean,
            self.decay * state.variance + (1 - self.decay) * variance.astype(jnp.float32),
        )
        return finite_or(moved, state)

    def center(self, state: SignalState, signal: Float[Array, "..."]) -> Float[Array, "..."]:
        """The signal, a constant, minus its moving average if `centering`."""
        return jax.lax.stop_gradient(signal) - self.baseline(state, signal)

    def baseline(self, state: SignalState, like: Float[Array, "..."]) -> Float[Array, ""]:
        """The moving average if `centering`, else 0, in the dtype of `like`."""
        mean = state.mean if self.centering else jnp.zeros_like(state.mean)
        return mean.astype(like.dtype)

    def scale(self, state: SignalState, like: Float[Array, "..."]) -> Float[Array, ""]:
        """`max(1, sigma)` if `variance_normalization`, else 1, in the dtype of `like`."""
        if not self.variance_normalization:
            return jnp.ones_like(state.variance, like.dtype)
        return jnp.maximum(1.0, jnp.sqrt(state.variance)).astype(like.dtype)
