"""Exact expectations by enumeration: the oracle of the tests, and the marginalization estimator.

For sites with joint values `z_1..z_N` the expected cost of an example is

    E[f(z)] = sum_n q(z_n) f(z_n),    q(z_n) = prod_site q(z_site | earlier sites),

a smooth function of the parameters, so its gradient is exact too.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gumbel import samplers
from gumbel.families import Family
from gumbel.types import Batch, Cost, Logits, Objective, Params, PRNGKey, Sample

MAX_VALUES = 1 << 16


def event_shapes(
    objective: Objective, params: Params, batch: Batch, key: PRNGKey, family: Family
) -> dict[str, tuple[int, ...]]:
    """The per-example shape of each site's logits, found without running the objective.

    Returns:
      `{site: shape}` in the order of the calls: `(..., D)` or `(..., D, K)`.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def note_shapes(params: Params, batch: Batch, key: PRNGKey) -> None:
        draw = samplers.hard_draw(family)
        _, records = samplers.trace(objective, params, batch, key, draw)
        shapes.update({site: record.logits.shape[1:] for site, record in records.items()})

    jax.eval_shape(note_shapes, params, batch, key)
    return shapes


def count_values(family: Family, shapes: dict[str, tuple[int, ...]]) -> int:
    """The number of joint values of all sites together."""
    return math.prod(
        family.num_values(shape) ** family.num_variables(shape) for shape in shapes.values()
    )


def check_count(
    family: Family, shapes: dict[str, tuple[int, ...]], max_values: int = MAX_VALUES
) -> int:
    """Returns the number of joint values, or raises if it is over `max_values`.

    Raises:
      ValueError: it names the sites and how many joint values they have.
    """
    count = count_values(family, shapes)
    if count > max_values:
        sites = ", ".join(
            f"{site}: {family.num_values(shape)}^{family.num_variables(shape)}"
            for site, shape in shapes.items()
        )
        shown = str(count) if count < 10**12 else f"about 10^{math.log10(count):.0f}"
        raise ValueError(
            f"enumeration needs {shown} joint values ({sites}), over max_values={max_values}: "
            "use fewer or smaller variables, or an estimator that samples"
        )
    return count


def expected_cost(
    objective: Objective,
    params: Params,
    batch: Batch,
    key: PRNGKey,
    family: Family,
    *,
    max_values: int = MAX_VALUES,
    chunk_size: int | None = None,
) -> Cost:
    """`E[f(z)]` for each example, in nats, by one pass of the objective per joint value.

    What does not depend on the enumerated values is computed once.

    Args:
      objective, params, batch: see `gumbel.Objective`.
      key: gives the objective's own noise, the same for every joint value.
      family: of all sites.
      max_values: the most joint values to enumerate.
      chunk_size: how many joint values are held in memory at once; `None` holds all of them.
        With a chunk size, a backward pass recomputes each chunk instead of storing it.

    Returns:
      The expected cost `[B]`, differentiable in `params`.

    Raises:
      ValueError: more than `max_values` joint values; the message says how many.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from gumbel import BERNOULLI, exact
      >>> def objective(params, batch, key, sample):
      ...     return jnp.sum((sample("z", params) - batch) ** 2, axis=-1)
      >>> logits, target = jnp.array([[0.0, 0.0]]), jnp.array([[1.0, 1.0]])
      >>> exact.expected_cost(objective, logits, target, jax.random.key(0), BERNOULLI).tolist()
      [1.0]
    """
    shapes = event_shapes(objective, params, batch, key, family)
    count = check_count(family, shapes, max_values)

    def weighted_cost(index: Array) -> Cost:
        indices = _site_indices(index, family, shapes)

        def draw(site: str, _key: PRNGKey, logits: Logits) -> Sample:
            z = family.joint_value(indices[site], shapes[site])
            return jnp.broadcast_to(z, logits.shape).astype(logits.dtype)

        cost, records = samplers.trace(objective, params, batch, key, draw)
        return jnp.exp(samplers.log_prob(family, records)) * cost

    values = jnp.arange(count)
    if chunk_size is None or chunk_size >= count:
        return jnp.sum(jax.vmap(weighted_cost)(values), axis=0)
    remat = jax.checkpoint(weighted_cost)
    return jnp.sum(jax.lax.map(remat, values, batch_size=chunk_size), axis=0)


def value_and_grad(
    objective: Objective,
    params: Params,
    batch: Batch,
    key: PRNGKey,
    family: Family,
    *,
    max_values: int = MAX_VALUES,
    chunk_size: int | None = None,
) -> tuple[Float[Array, ""], Params]:
    """The mean over the batch of the expected cost, and its exact gradient in `params`.

    The arguments are those of `expected_cost`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from gumbel import BERNOULLI, exact
      >>> def objective(params, batch, key, sample):
      ...     return jnp.sum((sample("z", params) - batch) ** 2, axis=-1)
      >>> logits, target = jnp.array([[0.0]]), jnp.array([[1.0]])
      >>> key = jax.random.key(0)
      >>> value, grad = exact.value_and_grad(objective, logits, target, key, BERNOULLI)
      >>> float(value), grad.tolist()
      (0.5, [[-0.25]])
    """

    def mean_cost(params: Params) -> Float[Array, ""]:
        limits: dict[str, Any] = {"max_values": max_values, "chunk_size": chunk_size}
        return jnp.mean(expected_cost(objective, params, batch, key, family, **limits))

    return jax.value_and_grad(mean_cost)(params)


def _site_indices(
    index: Array, family: Family, shapes: dict[str, tuple[int, ...]]
) -> dict[str, Array]:
    """Splits a joint index over all sites into one index per site (mixed radix)."""
    indices = {}
    for site, shape in shapes.items():
        radix = family.num_values(shape) ** family.num_variables(shape)
        indices[site] = index % radix
        index = index // radix
    return indices
