"""Paths whose binary variables are drawn negatively dependent: ARM, DisARM, ARMS.

Where all paths share a variable's logit `l` (the first layer of a stack, say), their values come
from dependent uniform numbers, so a few of them cover the possible costs better than independent
draws would. Where logits depend on earlier samples each path draws for itself. There the other
paths' costs are baselines, as in `rloo`, which holds given all that was drawn before; so the
estimates are unbiased for stacks of layers, in loops, and with masks.

A categorical variable with K values is a chain of K - 1 binary ones: `is it value c, given that it
is none before c?`. A path is active in the chain up to its own value. Where two paths are both
active, they are dependent; where only one is, the other's cost is its baseline.

Source: Yin and Zhou (2019), ARM; Dong, Mnih and Tucker (2020), DisARM, and (2021) for
categorical variables; Dimitriev and Zhou (2021), ARMS.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from gumbel.estimators.base import Estimator, Info, State, Temperature, no_state
from gumbel.estimators.derivatives import without_value
from gumbel.estimators.multi import Costs, Paths, shared_sites, sum_over_others, trace_paths
from gumbel.families import Family
from gumbel.layouts import layout
from gumbel.noise import exponential, uniform
from gumbel.numerics import CERTAIN, one_or_nan, upcast
from gumbel.samplers import Pass, Record, Site, spare_key
from gumbel.sites import Families, value_mask
from gumbel.tracing import divided_as
from gumbel.types import Batch, Logits, Objective, Params, PRNGKey, Sample

Noise: TypeAlias = Float[Array, "m B *bits"]


class Bits(NamedTuple):
    """A site's variables as binary ones, `[m, B, *D]` or `[m, B, *D, K - 1]`.

    Attributes:
      logits: log odds, differentiable in the logits of the site.
      z: 0 or 1.
      active: whether the path takes part: not masked or constant, and no earlier value was chosen.
      noise: the uniform number that determined `z`, which is the rarer of 0 and 1 if the number is
        below that value's probability.
    """

    logits: Noise
    z: Noise
    active: Bool[Array, "m B *bits"]
    noise: Noise


# Of the score, two antisymmetric forms: for two dependent paths, `[m, m, ...]`, whose mean is the
# score's slope; and for one path alone, `[m, ...]`.
Scores: TypeAlias = Callable[[Bits], tuple[Float[Array, "m m *bits"], Noise]]


def binary_logits(logits: Logits, family: Family) -> Float[Array, "..."]:
    """Log odds of the binary variables; for a categorical one, of c against all values after it.

    Example:
      >>> from gumbel import CATEGORICAL
      >>> binary_logits(jnp.log(jnp.array([0.5, 0.25, 0.25])), CATEGORICAL).tolist()
      [0.0, 0.0]
    """
    wide = upcast(logits)
    if not family.event_ndims:
        return wide
    finite = jnp.maximum(wide, -1e30)  # -inf minus -inf is NaN
    # Not cumlogsumexp, whose time on a CPU grows with K^2.
    after = jax.lax.associative_scan(jnp.logaddexp, finite, axis=finite.ndim - 1, reverse=True)
    return (finite[..., :-1] - after[..., 1:]) * one_or_nan(wide)


def draw(site: Site, key: PRNGKey, path: Int[Array, ""]) -> Sample:
    """Values from the given noise, `[B, *D]` or `[B, *D, K]`, whose last entry is unused."""
    logits = jax.lax.stop_gradient(site.logits)
    odds = binary_logits(logits, site.family)
    noise = site.given[..., :-1] if site.family.event_ndims else site.given
    noise = noise.astype(odds.dtype)
    bits = ((noise < jax.nn.sigmoid(-jnp.abs(odds))) ^ (odds > 0)).astype(odds.dtype)
    if site.family.event_ndims:
        one = jnp.ones((*bits.shape[:-1], 1), bits.dtype)  # if K = 1, there are no bits
        one = divided_as(one, like=logits)
        left = jnp.concatenate([one, jnp.cumprod(1 - bits, axis=-1)], axis=-1)
        bits = left * jnp.concatenate([bits, one], axis=-1)
        odds = one_or_nan(logits)
    return jnp.where(jnp.isnan(odds), jnp.nan, bits).astype(logits.dtype)


def noise_of(key: PRNGKey, plan: Pass, shared: frozenset[str], size: int) -> dict[str, Noise]:
    """Uniform noise for `size` paths, dependent at shared sites.

    There `noise_k = (1 - x_k)^(size - 1)` with `x` uniform on the simplex: two of them are small
    at the same time less often than independent ones. For two paths, one is 1 minus the other.
    """
    found = {}
    for index, (name, record) in enumerate(plan.records.items()):
        site_key = jax.random.fold_in(key, index)
        shape = (size, *record.z.shape)
        if name not in shared:
            found[name] = uniform(site_key, shape)
            continue
        waits = exponential(site_key, shape)
        others = sum_over_others(waits[None])
        found[name] = (others / jnp.sum(waits, axis=0, keepdims=True)) ** (size - 1)
    return found


def bits_of(record: Record, noise: Noise) -> Bits:
    """The binary variables of a recorded site."""
    odds, z = binary_logits(record.logits, record.family), upcast(record.z)
    constant = jnp.abs(odds) >= CERTAIN  # False for NaN, so that it reaches the gradient
    active = jnp.ones(z.shape, bool)
    if record.where is not None:
        active &= value_mask(record.where, record.family)
    if record.family.event_ndims:
        before = jnp.cumsum(z, axis=-1) - z
        active, z, noise = ((active & (before < 0.5))[..., :-1], z[..., :-1], noise[..., :-1])
    return Bits(odds, jax.lax.stop_gradient(z), active & ~constant, noise.astype(odds.dtype))


def coefficients(drawn: Paths, bits: Bits, scores: Scores, *, shared: bool) -> Noise:
    """The coefficient of each path's log odds.

    The mean of `coefficient * log odds` over paths is the surrogate's score-function part.
    """
    cost = drawn.spread(jax.lax.stop_gradient(drawn.cost), bits.z.ndim)
    pair, alone = scores(bits._replace(logits=jax.lax.stop_gradient(bits.logits)))
    difference = cost[:, None] - cost[None]
    terms = jnp.where(bits.active[:, None], difference * alone[:, None], 0)
    if shared:
        both = bits.active[:, None] & bits.active[None]
        terms = jnp.where(both, 0.5 * difference * pair, terms)
    return sum_over_others(terms) / (cost.shape[0] - 1)


def score_part(
    drawn: Paths, noise: dict[str, Noise], shared: frozenset[str], scores: Scores
) -> Costs:
    """For each path and cost, a scalar with the score-function part of the estimate as gradient."""
    parts = jnp.zeros_like(drawn.cost)
    for name, record in drawn.records.items():
        bits = bits_of(record, noise[name])
        factor, odds = coefficients(drawn, bits, scores, shared=name in shared), bits.logits
        if name in shared:  # added up before they are rounded to the logits' dtype
            factor = jnp.broadcast_to(jnp.mean(factor, axis=0, keepdims=True), factor.shape)
            odds = jnp.broadcast_to(odds[:1], odds.shape)
        parts += drawn.sum(jnp.where(factor == 0, 0, factor * jnp.where(factor == 0, 0, odds)))
    return parts


def estimator(family: Families, scores: Scores, *, size: int, groups: int) -> Estimator:
    """The mean over `groups` independent groups of `size` dependent paths."""

    def surrogate(
        objective: Objective,
        params: Params,
        batch: Batch,
        key: PRNGKey,
        temperature: Temperature,
        state: State,
    ) -> tuple[Float[Array, ""], tuple[State, Info]]:
        plan = layout(objective, params, batch, key, family)
        shared = shared_sites(objective, params, batch, key, family, plan)

        def group(noise_key: PRNGKey) -> tuple[Costs, Costs, PyTree]:
            noise = noise_of(noise_key, plan, shared, size)
            drawn = trace_paths(
                objective, params, batch, key, family, draw, size, given=noise, like=plan.records
            )
            return drawn.cost, score_part(drawn, noise, shared, scores), drawn.first_aux

        noise_keys = jax.random.split(spare_key(key), groups)
        cost, score, aux = jax.vmap(group)(noise_keys)
        value = jnp.mean(cost) + jnp.mean(without_value(score))
        constant = jax.lax.stop_gradient(cost)
        metrics = {"signal_scale": jnp.std(constant - jnp.mean(constant, axis=1, keepdims=True))}
        info = Info(
            jnp.mean(constant, axis=(0, 1)), metrics, jax.tree.map(lambda leaf: leaf[0], aux)
        )
        return value, (state, info)

    return Estimator(no_state, surrogate)


def check_even(name: str, num_samples: int) -> int:
    """The number of pairs.

    Raises:
      ValueError: the number of samples is odd.
    """
    if num_samples % 2:
        raise ValueError(
            f"estimator {name!r}: num_samples must be even, as it draws pairs, got {num_samples}"
        )
    return num_samples // 2
