"""VIMCO: the multi-sample objective, with a baseline for each sample from the other samples."""

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

from gumbel import samplers
from gumbel.estimators.base import Estimator, Info, State, Temperature, register
from gumbel.estimators.signal import Normalizer, SignalState
from gumbel.families import Family
from gumbel.types import Batch, Cost, Objective, Params, PRNGKey


@register("vimco", unbiased=True, multi_sample=True)
def vimco(
    family: Family,
    *,
    num_samples: int = 5,
    centering: bool = False,
    variance_normalization: bool = False,
    decay: float = 0.99,
) -> Estimator:
    """VIMCO: unbiased for the gradient of the multi-sample bound.

        L = -log (1/m) sum_i exp(-f(z_i)),    z_1..z_m independent

    This, and not `E[f(z)]`, is what it descends: `f` has to be a negative log weight, such as
    `-log p(x, z) + log q(z)` or `-log p(x | z)`. The signal of sample `i` is `L` less the same
    bound with `f(z_i)` replaced by the mean of the others. `info.cost` is `L`.

    Args:
      family: of the sites.
      num_samples: m, at least 2.
      centering: subtract a moving average of the signal; unbiased all the same.
      variance_normalization: divide by `max(1, sigma)`, sigma^2 a moving average of the signal's
        variance; this scales the score's part of the estimate.
      decay: of the moving averages.

    Raises:
      ValueError: `num_samples` is no integer of at least 2.

    Source: Mnih and Rezende (2016), equations 7 to 10.
    """
    if num_samples < 2 or num_samples != int(num_samples):
        raise ValueError(f"vimco needs num_samples to be an integer >= 2, not {num_samples}")

    normalizer = Normalizer.make(centering, variance_normalization, decay)

    def samples(
        objective: Objective, params: Params, batch: Batch, key: PRNGKey
    ) -> tuple[Float[Array, "m B"], Float[Array, "m B"]]:
        def one_sample(key: PRNGKey) -> tuple[Cost, Cost]:
            draw = samplers.hard_draw(family)
            cost, records = samplers.trace(objective, params, batch, key, draw)
            return cost, samplers.log_prob(family, records)

        return jax.vmap(one_sample)(jax.random.split(key, num_samples))

    def init(objective: Objective, params: Params, batch: Batch, key: PRNGKey) -> SignalState:
        cost, _ = samples(objective, params, batch, key)
        return normalizer.init(_bound(cost) - _leave_one_out_bounds(cost))

    def surrogate(
        objective: Objective,
        params: Params,
        batch: Batch,
        key: PRNGKey,
        temperature: Temperature,
        state: SignalState,
    ) -> tuple[Float[Array, ""], tuple[State, Info]]:
        cost, log_q = samples(objective, params, batch, key)
        bound = _bound(cost)
        signal, state = normalizer(state, bound - _leave_one_out_bounds(cost))
        value = jnp.mean(bound + jnp.sum(signal * log_q, axis=0))
        return value, (state, Info(bound, {"signal_scale": jnp.std(signal)}))

    return Estimator(init, surrogate)


def _bound(cost: Float[Array, "m B"]) -> Float[Array, " B"]:
    """`-log (1/m) sum_i exp(-cost_i)`."""
    return jnp.log(cost.shape[0]) - logsumexp(-cost, axis=0)


def _leave_one_out_bounds(cost: Float[Array, "m B"]) -> Float[Array, "m B"]:
    """For each sample, the bound with its cost replaced by the mean of the others' costs.

    The mean of the costs is the geometric mean of the weights.
    """
    num_samples = cost.shape[0]
    others = (jnp.sum(cost, axis=0) - cost) / (num_samples - 1)
    own = jnp.eye(num_samples, dtype=bool)[:, :, None]
    return jax.vmap(_bound)(jnp.where(own, others[:, None], cost[None]))
