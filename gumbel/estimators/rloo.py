"""The score function with several samples: the baseline of each is the mean of the others."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gumbel.estimators.base import Estimator, Info, State, Temperature, no_state, register
from gumbel.estimators.derivatives import magic_box
from gumbel.estimators.multi import independent, mean_of_others, trace_paths
from gumbel.estimators.options import Range
from gumbel.sites import Families
from gumbel.types import Batch, Objective, Params, PRNGKey


@register(
    "rloo",
    unbiased=True,
    derivatives="all",
    passes="m + m",
    ranges={"num_samples": Range(minimum=2)},
)
def rloo(family: Families, *, num_samples: int = 4) -> Estimator:
    """REINFORCE with leave-one-out baselines.

        1/m sum_k [ (f_k - mean_{j != k} f_j) grad log q(z_k) + grad f_k ],    z_1..z_m independent

    The mean cost of the other samples does not depend on `z_k`, so the estimate is unbiased. It
    needs neither a moving average nor a baseline network. `info.cost` is the mean of the `f_k`.

    Args:
      family: family of the sites.
      num_samples: m, at least 2.

    Source: Salimans and Knowles (2014); Kool, van Hoof and Welling (2019), Buy 4 REINFORCE samples.
    """

    def surrogate(
        objective: Objective,
        params: Params,
        batch: Batch,
        key: PRNGKey,
        temperature: Temperature,
        state: State,
    ) -> tuple[Float[Array, ""], tuple[State, Info]]:
        drawn = trace_paths(objective, params, batch, key, family, independent, num_samples)
        signal = drawn.cost - jax.lax.stop_gradient(mean_of_others(drawn.cost))
        value = jnp.mean(drawn.cost + (magic_box(drawn.log_prob()) - 1) * signal)
        metrics = {"signal_scale": jnp.std(jax.lax.stop_gradient(signal))}
        return value, (state, Info(drawn.mean_cost, metrics, drawn.first_aux))

    return Estimator(no_state, surrogate)
