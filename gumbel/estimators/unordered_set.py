"""The unordered-set estimator: distinct samples, weighted as draws without replacement."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gumbel.estimators.base import Estimator, Info, State, Temperature, register
from gumbel.estimators.derivatives import magic_box
from gumbel.estimators.distinct import (
    at_start,
    draw_distinct,
    leave_out,
    log_prob,
    num_values_at_start,
    repeated,
)
from gumbel.estimators.multi import Costs, Paths, trace_paths
from gumbel.estimators.options import Range
from gumbel.layouts import layout
from gumbel.samplers import Pass
from gumbel.sites import Families
from gumbel.types import Batch, Objective, Params, PRNGKey


@register(
    "unordered_set",
    unbiased=True,
    derivatives="all",
    passes="m + m",
    ranges={"num_samples": Range(minimum=2, maximum=8)},
)
def unordered_set(family: Families, *, num_samples: int = 2) -> Estimator:
    """The unordered-set estimator with its built-in baseline.

        sum_{s in S} w_s [ grad log p(s) (f(s) - p(s) f(s) - sum_{t != s} v_st f(t)) + grad f(s) ]

    where `S` is a set of m distinct joint values of the first site (of its first step, in a loop).
    The weights are `w_s = p(s) p(S without s | s is taken) / p(S)` and
    `v_st = p(t) p(S without s, t | both are taken) / p(S without s | s is taken)`. If m is the
    number of joint values, the estimate is exact for an objective with one site. Later sites are
    sampled independently for each `s`, with the costs of the others as baseline. `info.cost` is
    `sum_s w_s f(s)`.

    Args:
      family: family of the sites.
      num_samples: m, from 2 to 8, and at most the number of joint values of an example's variables
        at the first site.

    Raises:
      ValueError: in `init` and `surrogate`, if there are fewer joint values.

    Source: Kool, van Hoof and Welling (2020).
    """

    def first_site(
        objective: Objective, params: Params, batch: Batch, key: PRNGKey
    ) -> tuple[Pass, str, int]:
        plan = layout(objective, params, batch, key, family)
        name, record = next(iter(plan.records.items()))
        count = num_values_at_start(record, coupled=plan.coupled)
        if count < num_samples:
            raise ValueError(
                f"'unordered_set' draws num_samples={num_samples} distinct values, but the first "
                f"site, {name!r}, has {count}: lower num_samples, or use 'rloo' or 'arms'"
            )
        return plan, name, count

    def init(objective: Objective, params: Params, batch: Batch, key: PRNGKey) -> State:
        first_site(objective, params, batch, key)
        return ()

    def surrogate(
        objective: Objective,
        params: Params,
        batch: Batch,
        key: PRNGKey,
        temperature: Temperature,
        state: State,
    ) -> tuple[Float[Array, ""], tuple[State, Info]]:
        plan, name, count = first_site(objective, params, batch, key)
        draw = partial(draw_distinct, name, num_samples, plan.coupled)
        given = {site: jnp.zeros((num_samples, *r.z.shape)) for site, r in plan.records.items()}
        start = (slice(None), *at_start(plan.records[name]))
        given[name] = given[name].at[start].set(1)
        arguments = (objective, params, batch, key, family, draw, num_samples)
        drawn = trace_paths(*arguments, given=given, like=plan.records)

        record = drawn.records[name]
        first = drawn.sum(record.log_prob()[start])
        log_p = drawn.sum(log_prob(record)[start])
        log_p = jnp.where(repeated(record.z[start], drawn.cost.ndim), -jnp.inf, log_p)
        weights, pairs = leave_out(log_p, everything=count == num_samples)
        cost = jnp.where(weights != 0, drawn.cost, 0)  # what is impossible may cost inf
        value = jnp.sum(weights * _controlled(drawn, cost, first, log_p, pairs), axis=0)
        estimate = jax.lax.stop_gradient(jnp.sum(weights * cost, axis=0))
        metrics = {"signal_scale": jnp.std(jax.lax.stop_gradient(cost - estimate[None]))}
        return jnp.mean(value), (state, Info(estimate, metrics, drawn.first_aux))

    return Estimator(init, surrogate)


def _controlled(
    drawn: Paths, cost: Costs, first: Costs, log_p: Costs, pairs: Float[Array, "m m *B"]
) -> Costs:
    """Each path's cost under the magic boxes of its samples, minus its two baselines."""
    constant = jax.lax.stop_gradient(cost)
    others = jnp.sum(pairs * constant[None], axis=1)
    whole = jnp.sum(pairs, axis=1)
    # The later samples of a path are independent of the others' costs, and not of its own.
    later_baseline = others / jnp.where(whole > 0, whole, 1)
    first_box, later_box = magic_box(first), magic_box(drawn.log_prob() - first)
    control = (first_box - 1) * (jnp.exp(log_p) * constant + others)
    control += first_box * (later_box - 1) * later_baseline
    return first_box * later_box * cost - control
