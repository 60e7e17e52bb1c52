"""Double control variates: RLOO of the cost plus a linear function of the other paths' slopes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gumbel.estimators import stein
from gumbel.estimators.base import Estimator, register
from gumbel.estimators.multi import Paths, mean_of_others
from gumbel.estimators.options import Range
from gumbel.estimators.signal import DECAY
from gumbel.estimators.stein import Estimate, PhiChanges, Slopes
from gumbel.numerics import finite_or, wide_dtype
from gumbel.sites import Families
from gumbel.types import PRNGKey


@register(
    "double_cv",
    unbiased=True,
    slopes=True,
    derivatives="all",
    passes="2 * m + 2 * m",
    ranges={"num_samples": Range(minimum=2), "decay": DECAY},
)
def double_cv(family: Families, *, num_samples: int = 4, decay: float = 0.99) -> Estimator:
    """RLOO with a Taylor control variate whose slopes come from the other samples.

        1/m sum_k [ (c_k - mean_{j != k} c_j) grad log q(z_k) - alpha g_k . grad mu + grad f_k ],
        c_k = f_k + alpha g_k . (z_k - mu),    g_k = mean_{j != k} f'(z_j)

    with `mu` the mean of `z`. In a stack, `f'` passes through later layers by the derivative of
    their means. `alpha` minimizes the mean squared estimate: it is -1 for a linear cost, and 0,
    which is `rloo`, if the slopes are uninformative. Because the estimate is linear in `alpha`, the
    minimum is a ratio of two moving averages over earlier batches.

    Args:
      family: family of the sites.
      num_samples: m, at least 2.
      decay: decay of the moving averages, in [0, 1).

    Source: Titsias and Shi (2022).
    """
    return stein.estimator(family, num_samples, _Linear(decay))


class DoubleCVState(NamedTuple):
    """Moving averages of `rloo`'s estimate times the control variate, and of the latter squared."""

    product: Float[Array, ""]
    square: Float[Array, ""]


class _Linear(NamedTuple):
    decay: float

    def init(self, drawn: Paths, key: PRNGKey) -> DoubleCVState:
        zero = jnp.zeros((), wide_dtype(drawn.cost))
        return DoubleCVState(zero, zero)

    def step(
        self, state: DoubleCVState, drawn: Paths, slopes: Slopes, estimate: Estimate
    ) -> tuple[PhiChanges, DoubleCVState]:
        at_one = _changes(drawn, slopes)
        alpha = _coefficient(state)
        changes = {name: alpha.astype(moved.dtype) * moved for name, moved in at_one.items()}
        plain, whole = estimate(jax.tree.map(jnp.zeros_like, at_one)), estimate(at_one)
        product = sum(jnp.sum(a * (whole[name] - a)) for name, a in plain.items())
        square = sum(jnp.sum((whole[name] - a) ** 2) for name, a in plain.items())
        # Both averages start at 0 and are too small by one factor, which cancels in their ratio.
        dtype = state.square.dtype
        moved = DoubleCVState(
            self.decay * state.product + (1 - self.decay) * jnp.asarray(product, dtype),
            self.decay * state.square + (1 - self.decay) * jnp.asarray(square, dtype),
        )
        return changes, finite_or(moved, state)


def _coefficient(state: DoubleCVState) -> Float[Array, ""]:
    useful = state.square > 0
    alpha = -state.product / jnp.where(useful, state.square, 1)
    return jnp.where(useful, jnp.clip(alpha, -2, 2), 0)


def _changes(drawn: Paths, slopes: Slopes) -> PhiChanges:
    """The changes of `phi` with a coefficient of 1."""
    changes = {}
    for name, record in drawn.records.items():
        others = mean_of_others(slopes[name])
        z = record.z.astype(others.dtype)
        if record.family.event_ndims:
            moved = others - jnp.sum(others * z, axis=-1, keepdims=True)
        else:
            moved = others[..., None] * jnp.stack([0 - z, 1 - z], axis=-1)
        changes[name] = -moved
    return changes
