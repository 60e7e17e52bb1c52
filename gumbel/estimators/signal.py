"""Centering and scaling of a learning signal by moving averages, for the score-function estimators.

A score-function estimate is `signal * grad log q(z)`. Subtracting a number that does not depend on
`z` leaves its expectation alone and lowers its variance; dividing by a scale evens out the size of
the steps (and so changes the expectation by that factor).
"""

from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gumbel.numerics import concrete_or_none


class SignalState(NamedTuple):
    """Moving averages of the learning signal's mean (nats) and variance (nats^2)."""

    mean: Float[Array, ""]
    variance: Float[Array, ""]


class Normalizer(NamedTuple):
    """`(signal - mean) / max(1, sigma)`, each part an option.

    The averages are those of earlier batches: they do not depend on this batch's samples, which
    is what keeps the centred estimate unbiased.

    Attributes:
      centering: subtract the moving average of the signal.
      variance_normalization: divide by `max(1, sigma)`.
      decay: of both averages, in [0, 1).

    Source: Mnih and Gregor (2014), sections 2.3.1 and 2.3.3.
    """

    centering: bool
    variance_normalization: bool
    decay: float

    @classmethod
    def make(cls, centering: bool, variance_normalization: bool, decay: float) -> Self:
        """As the class, but refuses averages that would not stay finite.

        Raises:
          ValueError: a known `decay` is outside of [0, 1).
        """
        known = concrete_or_none(decay)
        if known is not None and not 0 <= known < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}: 0.99 averages 100 batches")
        return cls(centering, variance_normalization, decay)

    def init(self, signal: Float[Array, "..."]) -> SignalState:
        """Starts the averages from the signal of one batch, so that the first step is centred."""
        signal = jax.lax.stop_gradient(signal).astype(jnp.float32)
        return SignalState(jnp.mean(signal), jnp.var(signal))

    def update(self, state: SignalState, signal: Float[Array, "..."]) -> SignalState:
        """Moves the averages towards the statistics of this batch's signal."""
        new = self.init(signal)
        return SignalState(
            self.decay * state.mean + (1 - self.decay) * new.mean,
            self.decay * state.variance + (1 - self.decay) * new.variance,
        )

    def centre(self, state: SignalState, signal: Float[Array, "..."]) -> Float[Array, "..."]:
        """The signal, a constant, less its moving average if `centering`."""
        signal = jax.lax.stop_gradient(signal)
        return signal - state.mean.astype(signal.dtype) if self.centering else signal

    def scale(self, state: SignalState, values: Float[Array, "..."]) -> Float[Array, "..."]:
        """The values over `max(1, sigma)` if `variance_normalization`."""
        if not self.variance_normalization:
            return values
        return values / jnp.maximum(1.0, jnp.sqrt(state.variance)).astype(values.dtype)

    def __call__(
        self, state: SignalState, signal: Float[Array, "..."]
    ) -> tuple[Float[Array, "..."], SignalState]:
        """The normalized signal, a constant, and the next state."""
        return self.scale(state, self.centre(state, signal)), self.update(state, signal)
