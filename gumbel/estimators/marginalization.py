"""Exact marginalization as an estimator: neither variance nor bias, for a pass per value."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from gumbel import exact
from gumbel.estimators.base import Estimator, Info, State, Temperature, register
from gumbel.families import Family
from gumbel.types import Batch, Objective, Params, PRNGKey


@register("marginalization", unbiased=True, enumerates=True)
def marginalization(
    family: Family, *, max_values: int = exact.MAX_VALUES, chunk_size: int | None = None
) -> Estimator:
    """Sums over every joint value of the sites: the exact gradient.

        sum_z q(z) f(z)

    Args:
      family: of the sites.
      max_values: the most joint values to enumerate; `init` and `surrogate` raise a `ValueError`
        that says how many there are if there are more.
      chunk_size: how many joint values are held in memory at once (all, if `None`).

    Source: Kingma, Mohamed, Rezende and Welling (2014), for the class of their model M2.
    """

    def init(objective: Objective, params: Params, batch: Batch, key: PRNGKey) -> State:
        shapes = exact.event_shapes(objective, params, batch, key, family)
        exact.check_count(family, shapes, max_values)
        return ()

    def surrogate(
        objective: Objective,
        params: Params,
        batch: Batch,
        key: PRNGKey,
        temperature: Temperature,
        state: State,
    ) -> tuple[Float[Array, ""], tuple[State, Info]]:
        cost = exact.expected_cost(
            objective, params, batch, key, family, max_values=max_values, chunk_size=chunk_size
        )
        return jnp.mean(cost), (state, Info(cost, {}))

    return Estimator(init, surrogate)
