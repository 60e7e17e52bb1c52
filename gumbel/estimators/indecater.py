"""IndeCateR: the local expectation of every variable, the others sampled."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gumbel.estimators.base import Estimator, Info, State, Temperature, no_state, register
from gumbel.estimators.changes import Changes, changed_draw
from gumbel.estimators.derivatives import without_value
from gumbel.estimators.multi import Costs, Paths, trace_paths
from gumbel.estimators.options import Range
from gumbel.layouts import layout
from gumbel.sites import Families
from gumbel.sums import even_chunks
from gumbel.types import Batch, Objective, Params, PRNGKey


@register(
    "indecater",
    unbiased=True,
    passes="m * (1 + V) + m",
    ranges={"num_samples": Range(minimum=1), "chunk_size": Range(minimum=1)},
)
def indecater(family: Families, *, num_samples: int = 1, chunk_size: int = 64) -> Estimator:
    """IndeCateR: the score function, Rao-Blackwellized for each variable by itself.

        1/m sum_k [ sum_d sum_c f(z_1, .., z_d = c, .., z_D) grad p_d(c) + grad f(z) ],    z = z_k

    Each variable takes each of its other values once. Meanwhile, other variables of the same site
    and of earlier sites keep their values, and those of later sites and steps are sampled again
    with the same random numbers. This takes one forward pass, without a backward pass, for each of
    the `V = sum_d (K_d - 1)` changes. For an objective with one variable, the score-function part
    is exact. It has no second derivative.

    Args:
      family: family of the sites.
      num_samples: m.
      chunk_size: how many of the V changes are held in memory at once.

    Source: De Smet, Sansone and Zuidberg Dos Martires (2023); Titsias and
    Lázaro-Gredilla (2015), local expectation gradients.
    """

    def surrogate(
        objective: Objective,
        params: Params,
        batch: Batch,
        key: PRNGKey,
        temperature: Temperature,
        state: State,
    ) -> tuple[Float[Array, ""], tuple[State, Info]]:
        plan = layout(objective, params, batch, key, family)

        def with_change(params: Params, changes: Changes, index: Array) -> Paths:
            given = changes.given(index, plan.records, num_samples)
            return trace_paths(
                objective,
                params,
                batch,
                key,
                family,
                changed_draw,
                num_samples,
                given=given,
                like=plan.records,
            )

        name, record = next(iter(plan.records.items()))
        none = Changes(name, record, plan.coupled)
        drawn = with_change(params, none, jnp.asarray(-1))
        base, score = jax.lax.stop_gradient(drawn.cost), jnp.zeros_like(drawn.cost)
        for name, record in plan.records.items():
            changes = Changes(name, record, plan.coupled)

            def difference(index: Array, changes: Changes = changes) -> Array:
                return with_change(jax.lax.stop_gradient(params), changes, index).cost - base

            if changes.size:
                found = _mapped(difference, changes.size, chunk_size)
                score += changes.expected(drawn.records[name], jax.lax.stop_gradient(found))
        value = jnp.mean(drawn.cost + without_value(score))
        info = Info(drawn.mean_cost, {"signal_scale": jnp.std(base)}, drawn.first_aux)
        return value, (state, info)

    return Estimator(no_state, surrogate)


def _mapped(
    function: Callable[[Array], Costs], count: int, chunk_size: int
) -> Float[Array, "m *B V"]:
    """`function` of 0 to `count - 1`, at most `chunk_size` of them at once."""
    chunks, together = even_chunks(count, chunk_size), jax.vmap(function, out_axes=-1)
    if len(chunks) == 1:
        return together(chunks[0])
    # Not map's batch_size, which merges the first axes: on an explicit mesh, JAX may refuse that.
    found = jnp.moveaxis(jax.lax.map(together, chunks), 0, -2)
    return found.reshape(*found.shape[:-2], -1)[..., :count]
