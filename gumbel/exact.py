"""Exact expectations by enumeration of all joint values.

For sites with joint values `z_1..z_N` the expected cost of an example is

    E[f(z)] = sum_n q(z_n) f(z_n),    q(z_n) = prod_site q(z_site | earlier sites),

a smooth function of the parameters, so its gradient is exact, too. Coupled examples, which share a
scalar cost, are enumerated together: N is then the number of joint values of the whole batch.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gumbel import sums
from gumbel.arguments import check_integer
from gumbel.independence import require_independent
from gumbel.layouts import count_joint, count_values, event_shape, layout, num_variables, readable
from gumbel.samplers import Pass, Record, Site, possible_value, total, trace
from gumbel.sites import FamilyLike
from gumbel.types import Batch, Cost, Objective, Params, PRNGKey, Sample

MAX_VALUES = 1 << 16
_MOST_VALUES = (1 << 31) - 1  # the most that an int32 index can count


def check_count(plan: Pass, max_values: int = MAX_VALUES) -> int:
    """Returns the number of joint values, or raises if it is over `max_values`.

    Args:
      plan: result of `gumbel.layouts.layout`.
      max_values: largest number of joint values to enumerate; over 2^31 - 1 is always refused.

    Raises:
      TypeError: `max_values` is not an integer.
      ValueError: the message names the sites and how many joint values they have.
    """
    count = count_joint(plan)
    limit = min(check_integer(max_values, "max_values", least=1), _MOST_VALUES)
    if count > limit:
        sites = ", ".join(
            f"{site}: {record.num_values}^{num_variables(record, coupled=plan.coupled)}"
            for site, record in plan.records.items()
        )
        whole = ", of the whole batch, as its examples share one cost" if plan.coupled else ""
        raise ValueError(
            f"enumeration needs {readable(count)} joint values ({sites}){whole}, over max_values="
            f"{limit}: raise max_values if there is time for so many passes, use fewer or smaller "
            "variables, or an estimator that samples"
        )
    return count


def expected_cost(
    objective: Objective,
    params: Params,
    batch: Batch,
    key: PRNGKey,
    family: FamilyLike = None,
    *,
    max_values: int = MAX_VALUES,
    chunk_size: int | None = None,
) -> Cost:
    """`E[f(z)]` for each example, in nats, by one pass of the objective per joint value.

    Computations that do not depend on the enumerated values run once.

    Args:
      objective, params, batch: see `gumbel.Objective`.
      key: PRNG key of the objective's own noise, which is the same for every joint value.
      family: family of the sites: one for all, a mapping by site, or None if every call names it.
      max_values: largest number of joint values to enumerate.
      chunk_size: how many joint values are held in memory at once; all if `None`. With a chunk
        size, the backward pass recomputes each chunk instead of storing it.

    Returns:
      The expected cost, `[B]`, or `[]` if examples are coupled; differentiable in `params`.

    Raises:
      TypeError: `max_values` or `chunk_size` is not an integer, or `key` is not one PRNG key.
      ValueError: there are more than `max_values` joint values (the message says how many),
        `max_values` or `chunk_size` is below 1, or (outside of `jit`) one example's samples change
        another example's cost.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from gumbel import BERNOULLI, exact
      >>> def objective(params, batch, key, sample):
      ...     return jnp.sum((sample("z", params) - batch) ** 2, axis=-1)
      >>> logits, target = jnp.array([[0.0, 0.0]]), jnp.array([[1.0, 1.0]])
      >>> exact.expected_cost(objective, logits, target, jax.random.key(0), BERNOULLI).tolist()
      [1.0]
    """
    terms = _terms(objective, params, batch, key, family, max_values)
    return sums.sum_terms(*terms, chunk_size)


def mean_cost(
    objective: Objective,
    params: Params,
    batch: Batch,
    key: PRNGKey,
    family: FamilyLike = None,
    *,
    max_values: int = MAX_VALUES,
    chunk_size: int | None = None,
) -> tuple[Float[Array, ""], Cost]:
    """The mean over the batch of the expected cost, and the cost of each example, a constant.

    The arguments are those of `expected_cost`, except for the default of `chunk_size`: as many
    joint values as fit the cache of a CPU, and all of them on other devices. In chunks, the
    gradient of the mean is computed along with its value, so no pass is repeated and no chunk is
    stored. For derivatives of single costs use `expected_cost`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from gumbel import BERNOULLI, exact
      >>> def objective(params, batch, key, sample):
      ...     return jnp.sum((sample("z", params) - batch) ** 2, axis=-1)
      >>> logits, target = jnp.array([[0.0], [0.0]]), jnp.array([[1.0], [3.0]])
      >>> mean, costs = exact.mean_cost(objective, logits, target, jax.random.key(0), BERNOULLI)
      >>> float(mean), costs.tolist()
      (3.5, [0.5, 6.5])
    """
    terms = _terms(objective, params, batch, key, family, max_values)
    return sums.mean(*terms, chunk_size)


def _terms(
    objective: Objective,
    params: Params,
    batch: Batch,
    key: PRNGKey,
    family: FamilyLike,
    max_values: int,
) -> tuple[Callable[[Array], Cost], int]:
    """`q(z_n) f(z_n)` as a function of n, and how many there are."""
    plan = layout(objective, params, batch, key, family)
    count = check_count(plan, max_values)
    require_independent(objective, params, batch, key, family)

    def weighted_cost(index: Array) -> Cost:
        values = {}
        for site, record in plan.records.items():
            number = count_values(record, coupled=plan.coupled)
            values[site] = _joint_value(record, index % number, coupled=plan.coupled)
            index = index // number
        arguments = (objective, params, batch, key, family, _possible)
        forced = trace(*arguments, given=values, like=plan.records)
        weights = [_weight(r._replace(z=values[site])) for site, r in forced.records.items()]
        weight = jnp.exp(total(list(map(forced.sum, weights))))
        # The joint probability of values that are possible one by one may underflow to 0.
        impossible = weight == 0
        return jnp.where(impossible, 0, weight * jnp.where(impossible, 0, forced.cost))

    return weighted_cost, count


def _joint_value(record: Record, index: Array, *, coupled: bool) -> Sample:
    """Joint value number `index` of a site, the same for all examples of the batch."""
    shape, dtype = record.logits.shape, record.logits.dtype
    value = record.family.joint_value(index, event_shape(record, coupled=coupled), dtype)
    return value if coupled else jnp.broadcast_to(value[None], shape)


def _possible(site: Site, _key: PRNGKey) -> Sample:
    return possible_value(site, site.given)


def _weight(record: Record) -> Float[Array, "B *D"]:
    """`log q(z)`; a masked variable, which is 0 for each of its K numbers, has weight 1/K."""
    log_prob = record.family.log_prob(record.logits, record.z)
    return record.masked(log_prob, fill=-math.log(record.num_values))


def value_and_grad(
    objective: Objective,
    params: Params,
    batch: Batch,
    key: PRNGKey,
    family: FamilyLike = None,
    *,
    max_values: int = MAX_VALUES,
    chunk_size: int | None = None,
) -> tuple[Float[Array, ""], Params]:
    """The mean over the batch of the expected cost, and its exact gradient in `params`.

    The arguments are those of `mean_cost`. As from `jax.grad` with `allow_int`, the gradient of an
    integer or a key in `params` has dtype `float0`.

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
    check_count(layout(objective, params, batch, key, family), max_values)
    require_independent(objective, params, batch, key, family)

    def mean(params: Params) -> Float[Array, ""]:
        limits: dict[str, Any] = {"max_values": max_values, "chunk_size": chunk_size}
        return mean_cost(objective, params, batch, key, family, **limits)[0]

    return jax.value_and_grad(mean, allow_int=True)(params)
