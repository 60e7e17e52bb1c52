"""Control variates from the derivatives of other paths: for double_cv and rodeo.

Each path has a function `phi` of its samples, built from the costs and derivatives of the other
paths. Its Stein operator over single changes,

    h(z) = sum_d [ sum_c p_d(c) phi(z_1, .., z_d = c, .., z_D) - phi(z) ],

has expectation 0 at each site, given the samples before it; under the magic box of `log q(z)`, and
with `p` differentiable, so do its derivatives. RLOO of `f + h`, minus the contribution of `h` to
the expectation, is therefore unbiased; estimators differ only in `phi`.

Source: Titsias and Shi (2022), double control variates; Shi, Zhou, Hwang, Titsias and Mackey
(2022), RODEO.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gumbel.estimators.base import Estimator, Info, State, Temperature
from gumbel.estimators.derivatives import magic_box, without_value
from gumbel.estimators.multi import (
    Costs,
    Paths,
    independent,
    mean_of_others,
    other_paths,
    own_event,
    trace_paths,
    value_probs,
)
from gumbel.layouts import layout
from gumbel.numerics import upcast, zero_where_not_finite
from gumbel.samplers import Pass, Record, Site, spare_key, total
from gumbel.sites import Families
from gumbel.types import Batch, Objective, Params, PRNGKey, Sample

Slopes: TypeAlias = dict[str, Float[Array, "m B *event"]]
# By site: `phi` with one variable changed to each of its values, less `phi`, `[m, B, *D, K]`.
PhiChanges: TypeAlias = dict[str, Float[Array, "m B *D K"]]
# The estimate with these changes of `phi`, by site, as a gradient in logits that all paths share.
Estimate: TypeAlias = Callable[[PhiChanges], dict[str, Float[Array, "B *event"]]]


class Operator(Protocol):
    """Defines `phi`, by coefficients that it learns."""

    def init(self, drawn: Paths, key: PRNGKey) -> State:
        """The state before the first step."""

    def step(
        self, state: State, drawn: Paths, slopes: Slopes, estimate: Estimate
    ) -> tuple[PhiChanges, State]:
        """Changes of `phi` for each path, built from the others, and the next state.

        The changes use the coefficients of earlier steps; those of the next state make the squared
        estimate smaller.
        """


def control(drawn: Paths, changes: PhiChanges) -> Costs:
    """`h` of each path and cost, differentiable in the logits."""
    parts = []
    for name, record in drawn.records.items():
        p = value_probs(record.logits, record.family)
        parts.append(drawn.sum(record.masked(jnp.sum(p * changes[name], axis=-1))))
    return total(parts)


def score(drawn: Paths, changes: PhiChanges) -> Costs:
    """For each path and cost, a scalar with the score-function part of the estimate as gradient."""
    h = control(drawn, changes)
    augmented = jax.lax.stop_gradient(drawn.cost + h)
    difference = jax.lax.stop_gradient(h) - mean_of_others(augmented)
    box = magic_box(drawn.log_prob())
    return (box - 1) * difference + box * without_value(h)


def products(
    drawn: Paths, record: Record, slopes: Float[Array, "m B *event"]
) -> tuple[Float[Array, "m others ..."], Float[Array, "m others ..."]]:
    """`f'(z_j) . (y - z_j)` for paths `k` and `j != k`, at `y = z_k` and with one variable changed.

    The last axis has the values it is changed to: all, or the other one of a Bernoulli variable.
    """
    z = record.z.astype(slopes.dtype)
    others = other_paths(z.shape[0])
    own, slope = z[:, None], slopes[others]
    products = slope * (own - z[others])
    axes = tuple(axis + 1 for axis in own_event(record, slopes, coupled=drawn.coupled))
    at_sample = jnp.sum(products, axis=axes, keepdims=True)
    if record.family.event_ndims:
        moved = slope - jnp.sum(slope * own, axis=-1, keepdims=True)
    else:
        moved = (slope * (1 - 2 * own))[..., None]
        at_sample = at_sample[..., None]
    return at_sample, at_sample + moved


def by_value(record: Record, changes: Float[Array, "m B *D changes"]) -> Float[Array, "m B *D K"]:
    """Expands the changes in the layout of `products` to all values; that of `z` itself is 0."""
    if record.family.event_ndims:
        return changes
    return jnp.where(jnp.stack([record.z == 0, record.z == 1], axis=-1), 0, changes)


def estimator(family: Families, num_samples: int, operator: Operator) -> Estimator:
    """The estimator with this operator."""

    def draw_all(
        objective: Objective, params: Params, batch: Batch, key: PRNGKey
    ) -> tuple[Paths, Paths, Slopes]:
        """The paths; the same as constants; and the derivatives of each one's cost."""
        drawn = trace_paths(objective, params, batch, key, family, independent, num_samples)
        plan = layout(objective, params, batch, key, family)
        frozen = jax.lax.stop_gradient(params)
        slopes = _slopes(objective, frozen, batch, key, family, num_samples, plan)
        return drawn, _constant(drawn), slopes

    def init(objective: Objective, params: Params, batch: Batch, key: PRNGKey) -> State:
        _, constant, slopes = draw_all(objective, params, batch, key)
        state = operator.init(constant, spare_key(key))
        estimate = partial(_estimate, constant)
        # Outside of jit, each operation would compile by itself, which takes several times as long.
        return jax.jit(lambda: operator.step(state, constant, slopes, estimate)[1])()

    def surrogate(
        objective: Objective,
        params: Params,
        batch: Batch,
        key: PRNGKey,
        temperature: Temperature,
        state: State,
    ) -> tuple[Float[Array, ""], tuple[State, Info]]:
        drawn, constant, slopes = draw_all(objective, params, batch, key)
        estimate = partial(_estimate, constant)
        changes, next_state = operator.step(state, constant, slopes, estimate)
        box = magic_box(drawn.log_prob())
        value = jnp.mean(box * drawn.cost + score(drawn, jax.lax.stop_gradient(changes)))
        h = control(constant, changes)
        signal = constant.cost + h - mean_of_others(constant.cost + h)
        info = Info(drawn.mean_cost, {"signal_scale": jnp.std(signal)}, drawn.first_aux)
        return value, (jax.lax.stop_gradient(next_state), info)

    return Estimator(init, surrogate)


def _estimate(drawn: Paths, changes: PhiChanges) -> dict[str, Float[Array, "B *event"]]:
    def summed(shift: dict[str, Float[Array, "B *event"]]) -> Float[Array, ""]:
        records = {
            name: record._replace(logits=upcast(record.logits) + shift[name][None])
            for name, record in drawn.records.items()
        }
        shifted = drawn._replace(records=records)
        plain = magic_box(shifted.log_prob()) * drawn.cost
        return jnp.sum(plain + score(shifted, changes)) / drawn.cost.shape[0]

    nothing = {
        name: jnp.zeros_like(upcast(record.logits[0])) for name, record in drawn.records.items()
    }
    return jax.grad(summed)(nothing)


def _constant(drawn: Paths) -> Paths:
    def constant(record: Record) -> Record:
        logits, z = jax.lax.stop_gradient((record.logits, record.z))
        return record._replace(logits=logits, z=z)

    records = {name: constant(record) for name, record in drawn.records.items()}
    return drawn._replace(cost=jax.lax.stop_gradient(drawn.cost), records=records, aux=None)


def _slopes(
    objective: Objective,
    params: Params,
    batch: Batch,
    key: PRNGKey,
    family: Families,
    num_samples: int,
    plan: Pass,
) -> Slopes:
    """The derivative of each path's cost in its samples, by way of the means of later sites."""

    def probed(site: Site, key: PRNGKey, path: Int[Array, ""]) -> Sample:
        mean = site.family.mean(site.logits)
        return independent(site, key, path) + without_value(mean) + site.given

    def summed(given: Slopes) -> Float[Array, ""]:
        arguments = (objective, params, batch, key, family, probed, num_samples)
        return jnp.sum(trace_paths(*arguments, given=given, like=plan.records).cost)

    given = {
        name: jnp.zeros((num_samples, *record.z.shape), record.z.dtype)
        for name, record in plan.records.items()
    }
    # A slope that is not finite becomes 0: any slopes leave the estimate unbiased.
    found = {name: upcast(slope) for name, slope in jax.grad(summed)(given).items()}
    return zero_where_not_finite(found)
