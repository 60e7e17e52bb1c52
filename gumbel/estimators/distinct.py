"""Distinct joint values of independent variables, drawn without replacement, and their weights.

Source: Kool, van Hoof and Welling (2019), stochastic beam search; Kool, van Hoof and Welling
(2020), the estimator.
"""

from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, Bool, Float, Int

from gumbel.estimators.multi import independent, own_path
from gumbel.noise import gumbel_noise
from gumbel.numerics import same_rank, upcast, zero_that_varies_as
from gumbel.samplers import Record, Site, possible_value
from gumbel.tracing import divided_as, whole
from gumbel.types import PRNGKey, Sample

_Pair: TypeAlias = tuple[Array, Array]
_IMPOSSIBLE = -1e5  # in place of log 0, below the least log probability: finite


def distinct_values(
    log_probs: Float[Array, "D C"], noise: Float[Array, "D count C"]
) -> Int[Array, "count D"]:
    """Distinct joint values of D variables, drawn sequentially without replacement.

    A stochastic beam search over the variables finds those of all C^D joint values that have the
    largest `log p + Gumbel`, without visiting the others.

    Args:
      log_probs: log probabilities of the C values of each variable, normalized.
      noise: Gumbel noise. `count` is at most C^D; if fewer values are possible, the draws beyond
        them are arbitrary.

    Example:
      >>> noise = gumbel_noise(jax.random.key(0), (2, 4, 2))
      >>> values = distinct_values(jnp.log(jnp.full((2, 2), 0.5)), noise)
      >>> sorted(map(tuple, values.tolist()))
      [(0, 0), (0, 1), (1, 0), (1, 1)]
    """
    num_values, count = log_probs.shape[1], noise.shape[1]

    def step(beam: _Pair, inputs: _Pair) -> tuple[_Pair, _Pair]:
        log_q, largest = beam
        log_p, noise = inputs
        log_q = log_q[:, None] + log_p[None]
        perturbed = _with_maximum(log_q + noise, largest[:, None])
        possible = (largest > -jnp.inf)[:, None] & (log_p > -jnp.inf)[None]
        perturbed = jnp.where(possible, perturbed, -jnp.inf).reshape(-1)
        best, index = jax.lax.top_k(perturbed, min(count, perturbed.size))
        parent, value = index // num_values, index % num_values
        log_q = jnp.where(best > -jnp.inf, log_q.reshape(-1)[index], 0)
        return (log_q, best), (parent, value)

    start = jnp.where(jnp.arange(count) == 0, 0, -jnp.inf).astype(noise.dtype)
    zero = zero_that_varies_as(log_probs, noise)
    start += zero.astype(start.dtype)
    _, (parents, values) = jax.lax.scan(step, (jnp.zeros_like(start), start), (log_probs, noise))

    def back(index: Array, inputs: _Pair) -> _Pair:
        parent, value = inputs
        return parent[index], value[index]

    numbers = jnp.arange(count, dtype=parents.dtype)
    numbers += zero.astype(numbers.dtype)
    _, chosen = jax.lax.scan(back, numbers, (parents, values), reverse=True)
    return jnp.swapaxes(chosen, 0, 1)


def _with_maximum(
    perturbed: Float[Array, "k C"], largest: Float[Array, "k 1"]
) -> Float[Array, "k C"]:
    """Gumbel variables, given that the largest of each row is this."""
    gap = perturbed - jnp.max(perturbed, axis=-1, keepdims=True)
    v = largest - perturbed + jnp.log(-jnp.expm1(gap))
    return largest - jnp.maximum(v, 0) - jnp.log1p(jnp.exp(-jnp.abs(v)))


def log_prob(record: Record) -> Float[Array, "B *D"]:
    """`record.log_prob()`, accurate also where the probability is close to 1; no gradient.

    `leave_out` needs `1 - p`, and `log_softmax` rounds log probabilities above -6e-8 to 0.
    """
    if not record.family.event_ndims:
        return jax.lax.stop_gradient(record.log_prob())
    logits = jax.lax.stop_gradient(upcast(record.logits))
    one_hot = jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1], dtype=bool)
    below = logits - jnp.max(logits, axis=-1, keepdims=True)
    total = jnp.log1p(jnp.sum(jnp.where(one_hot, 0, jnp.exp(below)), axis=-1))
    chosen = jnp.sum(jnp.where(record.z > 0.5, below, jnp.zeros_like(below)), axis=-1)
    return record.masked(chosen - total)


def leave_out(
    log_p: Float[Array, "k *B"], *, everything: bool
) -> tuple[Float[Array, "k *B"], Float[Array, "k k *B"]]:
    """The weights of an unordered set of draws without replacement.

    `w_s = p(s) p(S without s | s is taken) / p(S)` makes `sum_s w_s f(s)` unbiased for `E f`. With
    `v_st = p(t) p(S without s, t | both are taken) / p(S without s | s is taken)`, so is
    `p(s) f(s) + sum_{t != s} v_st f(t)`, given that `s` is taken.

    Args:
      log_p: log probabilities of the k distinct values, -inf of those that are impossible; k is
        small, as it tries all 2^k subsets.
      everything: whether the set holds all values that there are.

    Returns:
      `w`, and `v` with a diagonal of 0.

    Example:
      >>> w, _ = leave_out(jnp.log(jnp.array([0.2, 0.3, 0.5])), everything=True)
      >>> [round(x, 4) for x in w.tolist()]
      [0.2, 0.3, 0.5]
    """
    size = log_p.shape[0]
    rest = jnp.zeros_like(log_p[0]) if everything else _rest(log_p)
    impossible = jnp.isneginf(log_p)
    least = jnp.min(jnp.where(impossible, jnp.inf, log_p), axis=0) + _IMPOSSIBLE
    log_p = jnp.where(impossible, least[None], log_p)
    # If an impossible value was drawn, no possible one is left, and `rest` is rounding error.
    some = (rest > 0) & ~jnp.any(impossible, axis=0)
    log_rest = jnp.where(some, jnp.log(jnp.where(some, rest, 1)), least)
    # Of many variables, each log probability is large: the sums over subsets, in which it would
    # count up to k times, are of the differences from the largest, whose exponentials cancel.
    below = log_p - jnp.max(log_p, axis=0, keepdims=True)
    bits = 1 << np.arange(size)
    taken = np.arange(2**size)[:, None] & bits > 0
    # By the set of values that are taken: log p(the others of the set are drawn next).
    empty = jnp.zeros((2**size, *[1] * log_rest.ndim), log_p.dtype)
    table = empty + jnp.zeros_like(log_rest)[None]  # sharded as the costs are
    for number in reversed(range(size)):
        rows = np.flatnonzero(taken.sum(axis=1) == number)
        left = ~taken[rows].reshape(-1, size, *[1] * log_rest.ndim)
        free = jnp.where(left, log_p[None], -jnp.inf)
        remaining = jnp.logaddexp(log_rest[None], logsumexp(free, axis=1))
        next_ways = jnp.where(left, below[None], -jnp.inf) - remaining[:, None]
        ways = next_ways + table[rows[:, None] | bits]
        table = table.at[rows].set(logsumexp(ways, axis=1))
    weights = below + table[bits] - table[:1]
    pairs = below[None] + table[bits[:, None] | bits] - table[bits][:, None]
    own = own_path(size, pairs.ndim)
    return jnp.exp(weights), jnp.where(own, 0, jnp.exp(pairs))


def _rest(log_p: Float[Array, "k *B"]) -> Float[Array, "*B"]:
    """`1 - sum p`, without cancellation if one value has nearly all of the probability."""
    largest = jnp.argmax(log_p, axis=0, keepdims=True)
    is_largest = jnp.arange(log_p.shape[0]).reshape(-1, *[1] * (log_p.ndim - 1)) == largest
    others = jnp.sum(jnp.where(is_largest, 0, jnp.exp(log_p)), axis=0)
    return -jnp.expm1(jnp.max(log_p, axis=0)) - others


def draw_distinct(
    first: str, size: int, coupled: bool, site: Site, key: PRNGKey, path: Int[Array, ""]
) -> Sample:
    """Value number `path` of `size` distinct ones at the site `first`, where `site.given` is 1.

    The set is drawn from the logits and the key, which all paths share. Elsewhere the paths are
    independent.
    """
    if site.name != first:
        return independent(site, key, path)
    log_probs = whole(_log_probs(site), 0 if coupled else 1)
    shape = log_probs.shape[:-1]  # [B, *D], or [*D] if a coupled site has no batch axis
    rows = 1 if coupled else shape[0]
    flat = log_probs.reshape(rows, -1, log_probs.shape[-1])
    num_variables, num_values = flat.shape[1:]
    noise = jax.vmap(lambda key: gumbel_noise(key, (num_variables, size, num_values), flat.dtype))
    by_row = divided_as(noise(jax.random.split(key, rows)), like=flat)
    chosen = jax.vmap(distinct_values)(flat, by_row)[:, path]
    chosen = chosen.reshape(shape)
    one_hot = site.family.event_ndims
    z = jax.nn.one_hot(chosen, log_probs.shape[-1]) if one_hot else chosen
    z = divided_as(z, like=site.logits)
    z = jnp.where(jnp.isnan(site.logits), jnp.nan, z.astype(site.logits.dtype))
    # Where fewer values are possible than are drawn, the rest repeats them, and has weight 0.
    return jnp.where(site.given > 0, possible_value(site, z), independent(site, key, path))


def _log_probs(site: Site) -> Float[Array, "B *D C"]:
    """The log probability of each value; a masked variable has its first value for certain."""
    logits = jax.lax.stop_gradient(upcast(site.logits))
    if site.family.event_ndims:
        log_probs = jax.nn.log_softmax(logits, axis=-1)
    else:
        log_probs = jnp.stack([jax.nn.log_sigmoid(-logits), jax.nn.log_sigmoid(logits)], axis=-1)
    if site.where is None:
        return log_probs
    certain = jnp.where(jnp.arange(log_probs.shape[-1]) == 0, 0, -jnp.inf)
    return jnp.where(*same_rank(site.where[..., None], log_probs, certain))


def repeated(z: Float[Array, "m B *D"], cost_ndim: int) -> Bool[Array, "m *B"]:
    """Whether a path repeats the value of an earlier one, for lack of possible values."""
    flat = z.reshape(*z.shape[:cost_ndim], -1)
    same = jnp.all(flat[:, None] == flat[None], axis=-1)
    earlier = jnp.tril(jnp.ones(same.shape[:2], bool), -1)
    return jnp.any(same & earlier.reshape(*earlier.shape, *[1] * (same.ndim - 2)), axis=1)


def num_values_at_start(record: Record, *, coupled: bool) -> int:
    """The joint values, at the first step of its loops, of the variables that share a cost."""
    shape, lead = tuple(record.logits.shape), record.lead
    behind = lead + len(record.loops)
    if 0 in shape[lead:behind]:
        return 1  # no step, no variable
    step = shape[:lead] + shape[behind:]
    event = step if coupled else step[1:]
    count: int = record.num_values ** record.family.num_variables(event)
    return count


def at_start(record: Record) -> tuple[int | slice, ...]:
    """The index of a loop's first step, behind the batch axis."""
    return (*[slice(None)] * record.lead, *record.first)
