"""RODEO: RLOO with a learned discrete Stein operator for its control variate."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gumbel.estimators.base import Estimator, register
from gumbel.estimators.control import RANGES, ControlState, Learner, learner
from gumbel.estimators.multi import Paths, other_paths
from gumbel.estimators.options import Range
from gumbel.estimators.signal import DECAY, Normalizer, SignalState
from gumbel.estimators.stein import Estimate, PhiChanges, Slopes, by_value, estimator, products
from gumbel.numerics import wide_dtype
from gumbel.sites import Families
from gumbel.types import PRNGKey

_PASSES = "2 * m + 2 * m"
_RANGES = {"num_samples": Range(minimum=2), "control_hidden": Range(minimum=1), "decay": DECAY}


@register(
    "rodeo", unbiased=True, slopes=True, derivatives="all", passes=_PASSES, ranges=RANGES | _RANGES
)
def rodeo(
    family: Families,
    *,
    num_samples: int = 4,
    control_hidden: int = 8,
    control_optimizer: str = "adam",
    control_learning_rate: float = 1e-2,
    decay: float = 0.99,
) -> Estimator:
    """RODEO: RLOO with a Stein operator of a small network, over single flips, as control variate.

        phi_k(y) = mean_{j != k} H(f_j, f'(z_j) . (y - z_j)),
        (A phi)(z) = sum_d [ sum_c p_d(c) phi(z_1, .., z_d = c, .., z_D) - phi(z) ]

    `f_k + (A phi_k)(z_k)` replaces `f_k` in `rloo`, and what this adds to the expectation is
    subtracted. `H(f, s) = -a s + v . tanh(W (f, s) + b)`, of costs less their moving mean and in
    units of their moving standard deviation, learns to make the squared estimate small. With
    `v = 0` it is `double_cv`; with `a = 0` as well, where it starts, `rloo`. It takes as many
    passes as `double_cv`.

    Args:
      family: family of the sites.
      num_samples: m, at least 2; time and memory of `H` grow with its square.
      control_hidden: hidden units of `H`.
      control_optimizer: optimizer of `a`, `v`, `W` and `b`: `adam`, `rmsprop` or `sgd`.
      control_learning_rate: learning rate of that optimizer.
      decay: decay of the moving averages of the cost's mean and variance, in [0, 1).

    Source: Shi, Zhou, Hwang, Titsias and Mackey (2022).
    """
    fitted = learner(control_optimizer, control_learning_rate)
    network = _Network(control_hidden, fitted, Normalizer(True, True, decay))
    return estimator(family, num_samples, network)


class RodeoState(NamedTuple):
    """The moving averages of the cost, and the coefficients of `H` with their optimizer."""

    signal: SignalState
    control: ControlState


class _Network(NamedTuple):
    hidden: int
    learner: Learner
    normalizer: Normalizer

    def init(self, drawn: Paths, key: PRNGKey) -> RodeoState:
        coefficients = {
            "a": jnp.zeros((), jnp.float32),
            "v": jnp.zeros(self.hidden, jnp.float32),
            "w": jax.random.normal(key, (2, self.hidden), jnp.float32),
            "b": jnp.zeros(self.hidden, jnp.float32),
        }
        return RodeoState(self.normalizer.init(drawn.cost), self.learner.init(coefficients))

    def step(
        self, state: RodeoState, drawn: Paths, slopes: Slopes, estimate: Estimate
    ) -> tuple[PhiChanges, RodeoState]:
        def squared(changes: PhiChanges) -> Float[Array, ""]:
            squares = [jnp.sum(jnp.square(x)) for x in estimate(changes).values()]
            return jnp.sum(jnp.stack(squares)) / max(drawn.cost[0].size, 1)

        weights = state.control.coefficients
        changes, pullback = jax.vjp(partial(_changes, drawn, slopes, state.signal), weights)
        control = self.learner.step(state.control, *pullback(jax.grad(squared)(changes)))
        return changes, RodeoState(self.normalizer.update(state.signal, drawn.cost), control)


def _changes(drawn: Paths, slopes: Slopes, signal: SignalState, weights: Any) -> PhiChanges:
    dtype = wide_dtype(drawn.cost)
    signal, weights = jax.tree.map(lambda leaf: leaf.astype(dtype), (signal, weights))
    scale = jnp.sqrt(signal.variance) + 1e-3

    def network(costs: Float[Array, "..."], slope: Float[Array, "..."]) -> Float[Array, "..."]:
        cost, change = (costs - signal.mean) / scale, slope / scale

        @jax.checkpoint  # One unit at a time, recomputed backward: all do not fit the cache.
        def add(so_far: Array, unit: tuple[Array, ...]) -> tuple[Array, None]:
            v, of_cost, of_slope, b = unit
            return so_far + v * jnp.tanh(of_cost * cost + of_slope * change + b), None

        units = (weights["v"], *weights["w"], weights["b"])
        summed, _ = jax.lax.scan(add, jnp.zeros_like(cost + change), units)
        return scale * summed - weights["a"] * slope

    found = {}
    for name, record in drawn.records.items():
        at_sample, at_changes = products(drawn, record, slopes[name])
        costs = drawn.spread(drawn.cost, at_changes.ndim - 1)[other_paths(len(drawn.cost))]
        change = network(costs, at_changes) - network(costs, at_sample)
        found[name] = by_value(record, jnp.mean(change, axis=1))
    return found
