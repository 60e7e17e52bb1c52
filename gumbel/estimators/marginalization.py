"""Exact marginalization as an estimator: no variance and no bias, one pass per joint value."""

from jaxtyping import Array, Float

from gumbel import exact
from gumbel.estimators.base import Estimator, Info, State, Temperature, register
from gumbel.estimators.options import Range
from gumbel.layouts import layout
from gumbel.samplers import hard_draw, trace
from gumbel.sites import Families
from gumbel.types import Batch, Objective, Params, PRNGKey


@register(
    "marginalization",
    unbiased=True,
    enumerates=True,
    derivatives="all",
    passes="N + N",
    ranges={"max_values": Range(minimum=1), "chunk_size": Range(minimum=1)},
    kinds={"chunk_size": int},
)
def marginalization(
    family: Families, *, max_values: int = exact.MAX_VALUES, chunk_size: int | None = None
) -> Estimator:
    """Sums over every joint value of the sites: the exact gradient.

        sum_z q(z) f(z)

    Args:
      family: family of the sites.
      max_values: largest number of joint values to enumerate; with more, `init` and `surrogate`
        raise a `ValueError` that says how many there are.
      chunk_size: how many joint values are held in memory at once; if `None`, as many as fit the
        cache of a CPU, and all of them on other devices.

    Source: Kingma, Mohamed, Rezende and Welling (2014), for the class variable of their model M2.
    """

    def init(objective: Objective, params: Params, batch: Batch, key: PRNGKey) -> State:
        exact.check_count(layout(objective, params, batch, key, family), max_values)
        return ()

    def surrogate(
        objective: Objective,
        params: Params,
        batch: Batch,
        key: PRNGKey,
        temperature: Temperature,
        state: State,
    ) -> tuple[Float[Array, ""], tuple[State, Info]]:
        mean, cost = exact.mean_cost(
            objective, params, batch, key, family, max_values=max_values, chunk_size=chunk_size
        )
        aux = None
        if layout(objective, params, batch, key, family).aux is not None:
            aux = trace(objective, params, batch, key, family, hard_draw).aux
        return mean, (state, Info(cost, {}, aux))

    return Estimator(init, surrogate)
