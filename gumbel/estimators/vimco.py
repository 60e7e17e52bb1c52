"""VIMCO: the multi-sample objective, with a baseline for each sample from the other samples."""

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, PyTree

from gumbel.estimators.base import Estimator, Info, State, Temperature, register
from gumbel.estimators.derivatives import magic_box
from gumbel.estimators.multi import Costs, mean_of_others, own_path
from gumbel.estimators.options import Range
from gumbel.estimators.signal import DECAY, SCALED, Normalizer, SignalState
from gumbel.samplers import hard_draw, trace
from gumbel.sites import Families
from gumbel.types import Batch, Cost, Objective, Params, PRNGKey


@register(
    "vimco",
    unbiased=True,
    multi_sample=True,
    derivatives="all",
    passes="m + m",
    biased_if=[SCALED],
    ranges={"num_samples": Range(minimum=2), "decay": DECAY},
)
def vimco(
    family: Families,
    *,
    num_samples: int = 5,
    centering: bool = False,
    variance_normalization: bool = False,
    decay: float = 0.99,
) -> Estimator:
    """VIMCO: unbiased for the gradient of the multi-sample bound.

        L = -log (1/m) sum_i exp(-f(z_i)),    z_1..z_m independent

    It minimizes this bound instead of `E[f(z)]`, so `f` has to be a negative log weight, such as
    `-log p(x, z) + log q(z)` or `-log p(x | z)`. The signal of sample `i` is `L` minus the same
    bound with `f(z_i)` replaced by the mean of the other costs, that is, with the geometric mean of
    the other weights. A sample with infinite cost has weight 0. `info.cost` is `L`.

    Args:
      family: family of the sites.
      num_samples: m, at least 2.
      centering: subtract a moving average of the signal; the estimate stays unbiased.
      variance_normalization: divide by `max(1, sigma)`, where sigma^2 is a moving average of the
        signal's variance. This scales the score-function part of the estimate, which is then biased
        where `f` depends on the parameters, too.
      decay: decay of the moving averages, in [0, 1).

    Source: Mnih and Rezende (2016), equations 7 to 10.
    """
    normalizer = Normalizer(centering, variance_normalization, decay)

    def samples(
        objective: Objective, params: Params, batch: Batch, key: PRNGKey
    ) -> tuple[Costs, Costs, PyTree]:
        # Not `trace_paths`: every sample also gets its own key for the objective's noise.
        def one_sample(key: PRNGKey) -> tuple[Cost, Cost, PyTree]:
            drawn = trace(objective, params, batch, key, family, hard_draw)
            return drawn.cost, drawn.log_prob(), drawn.aux

        return jax.vmap(one_sample)(jax.random.split(key, num_samples))

    def init(objective: Objective, params: Params, batch: Batch, key: PRNGKey) -> SignalState:
        cost, _, _ = samples(objective, params, batch, key)
        return normalizer.init(bound(cost)[None] - _baselines(cost))

    def surrogate(
        objective: Objective,
        params: Params,
        batch: Batch,
        key: PRNGKey,
        temperature: Temperature,
        state: SignalState,
    ) -> tuple[Float[Array, ""], tuple[State, Info]]:
        cost, log_q, aux = samples(objective, params, batch, key)
        value = bound(cost)
        baselines, scale = jax.lax.stop_gradient(_baselines(cost)), normalizer.scale(state, cost)
        signal = jax.lax.stop_gradient(value)[None] - baselines
        # Each baseline depends on the other samples only: box of theirs, times (own box - 1).
        everything = jnp.sum(log_q, axis=0)
        others = magic_box(everything[None] - log_q)
        average = normalizer.baseline(state, cost)
        control = others * (magic_box(log_q) - 1) * (baselines + average)
        score = (magic_box(everything) - 1) * value - jnp.sum(control, axis=0)
        metrics = {"signal_scale": jnp.std(signal) / scale}
        first_aux = jax.tree.map(lambda leaf: leaf[0], aux)
        info = Info(value, metrics, first_aux)
        return jnp.mean(value + score / scale), (normalizer.update(state, signal), info)

    return Estimator(init, surrogate)


def bound(cost: Costs) -> Cost:
    """`-log (1/m) sum_i exp(-cost_i)`."""
    return math.log(cost.shape[0]) - logsumexp(-cost, axis=0)


def _baselines(cost: Costs) -> Costs:
    """For each sample, the bound with its cost replaced by the mean of the others' costs.

    Where all the others have weight 0 that is infinite, and 0 takes its place: any function of the
    others is a baseline.
    """
    others = mean_of_others(cost)
    own = own_path(cost.shape[0], cost.ndim + 1)
    replaced = jax.vmap(bound)(jnp.where(own, others[:, None], cost[None]))
    return jnp.where(jnp.isposinf(replaced), 0, replaced)
