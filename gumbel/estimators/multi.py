"""Several samples of an objective as one vectorized pass, for estimators that compare them.

Each sample is a *path* through the objective's sites, whose later logits depend on the path's
earlier samples. All paths share the objective's own noise, so their costs differ by their samples
alone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from gumbel.families import Family
from gumbel.numerics import upcast
from gumbel.samplers import Pass, Record, Records, Site, hard_draw, total, trace
from gumbel.sites import Families, lead_of
from gumbel.types import Batch, Cost, Logits, Objective, Params, PRNGKey, Sample

Costs: TypeAlias = Float[Array, "m *B"]
# `draw(site, key, path) -> z`, the key the same for all paths, `path` the number of this one.
PathDraw: TypeAlias = Callable[[Site, PRNGKey, Int[Array, ""]], Sample]


class Paths(NamedTuple):
    """Like `Pass`, with a leading axis of paths on every array.

    Attributes:
      cost: `[m, B]`, or `[m]` of coupled examples.
      records: `{site: Record}`, in the order of the calls.
      aux: the second value that the objective returned, or None.
    """

    cost: Costs
    records: Records
    aux: PyTree

    @property
    def coupled(self) -> bool:
        """Whether all examples share one cost."""
        return self.cost.ndim == 1

    @property
    def mean_cost(self) -> Cost:
        """The mean over paths, a constant."""
        return jax.lax.stop_gradient(jnp.mean(self.cost, axis=0))

    @property
    def first_aux(self) -> PyTree:
        """`aux` of the first path."""
        return jax.tree.map(lambda leaf: leaf[0], self.aux)

    def sum(self, per_variable: Float[Array, "m B *D"]) -> Costs:
        """Sums over the variables of each cost: those of an example, or all if coupled."""
        kept = per_variable.shape[: self.cost.ndim]
        return jnp.sum(per_variable.reshape(*kept, -1), axis=-1)

    def spread(self, costs: Costs, ndim: int) -> Float[Array, "m ..."]:
        """Costs with axes of size 1 added, to multiply arrays of `ndim` axes."""
        return costs.reshape(*costs.shape, *[1] * (ndim - costs.ndim))

    def log_prob(self) -> Costs:
        """`sum_site sum_d log q(z_d)` of all the samples that each cost depends on."""
        return total([self.sum(record.log_prob()) for record in self.records.values()])


def independent(site: Site, key: PRNGKey, path: Int[Array, ""]) -> Sample:
    """Discrete samples, each path's independent of the others'."""
    return hard_draw(site, jax.random.fold_in(key, path))


def trace_paths(
    objective: Objective,
    params: Params,
    batch: Batch,
    key: PRNGKey,
    family: Families,
    draw: PathDraw,
    num_samples: int,
    *,
    given: dict[str, PyTree] | None = None,
    like: Records | None = None,
) -> Paths:
    """Runs the objective once for each of `num_samples` paths, under one `jax.vmap`.

    Args:
      objective, params, batch, key, family, like: as for `gumbel.samplers.trace`.
      draw: `draw(site, key, path) -> z`.
      num_samples: m.
      given: as for `trace`, with a leading axis of paths.
    """
    found: Records = {}

    def one(path: Int[Array, ""], given: dict[str, PyTree] | None) -> tuple[Cost, PyTree, PyTree]:
        def of_path(site: Site, key: PRNGKey) -> Sample:
            return draw(site, key, path)

        drawn = trace(objective, params, batch, key, family, of_path, given=given, like=like)
        arrays = {name: (r.logits, r.z, r.where) for name, r in drawn.records.items()}
        none: Any = None  # in place of the arrays, which must not leave the vmap
        for name, record in drawn.records.items():
            found[name] = record._replace(logits=none, z=none, where=none)
        return drawn.cost, arrays, drawn.aux

    cost, arrays, aux = jax.vmap(one)(jnp.arange(num_samples), given)
    records = {}
    for name, record in found.items():  # in the order of the calls
        logits, z, where = arrays[name]
        records[name] = record._replace(logits=logits, z=z, where=where)
    return Paths(cost, records, aux)


def mean_of_others(values: Float[Array, "m *B"]) -> Float[Array, "m *B"]:
    """For each path, the mean over the other paths.

    Example:
      >>> mean_of_others(jnp.array([1.0, 2.0, jnp.inf])).tolist()
      [inf, inf, 1.5]
    """
    return sum_over_others(values[None]) / (values.shape[0] - 1)


def sum_over_others(pairs: Float[Array, "m m ..."]) -> Float[Array, "m ..."]:
    """For each path, the sum over the second axis without its own entry.

    The first axis may have size 1 where all paths share their entries.
    """
    # Not the sum of all minus its own entry, which is NaN if that entry is infinite.
    return jnp.sum(jnp.where(own_path(pairs.shape[1], pairs.ndim), 0, pairs), axis=1)


def other_paths(num_samples: int) -> Int[Array, "m others"]:
    """The numbers of the paths other than each.

    Example:
      >>> other_paths(3).tolist()
      [[1, 2], [0, 2], [0, 1]]
    """
    own, before = jnp.arange(num_samples)[:, None], jnp.arange(num_samples - 1)[None]
    return before + (before >= own).astype(before.dtype)


def own_path(num_samples: int, ndim: int) -> Bool[Array, "m m ..."]:
    """Which entries of pairs `[m, m, ...]`, an array of `ndim` axes, pair a path with itself."""
    same = jnp.eye(num_samples, dtype=bool)
    return same.reshape(num_samples, num_samples, *[1] * (ndim - 2))


def value_probs(logits: Logits, family: Family) -> Float[Array, "*D K"]:
    """The probability of each value, `[..., D, K]`, for Bernoulli variables `[..., D, 2]`.

    Example:
      >>> from gumbel import BERNOULLI
      >>> value_probs(jnp.zeros(1), BERNOULLI).tolist()
      [[0.5, 0.5]]
    """
    wide = upcast(logits)
    if family.event_ndims:
        return jax.nn.softmax(wide, axis=-1)
    return jnp.stack([jax.nn.sigmoid(-wide), jax.nn.sigmoid(wide)], axis=-1)


def shared_sites(
    objective: Objective,
    params: Params,
    batch: Batch,
    key: PRNGKey,
    family: Families,
    plan: Pass,
) -> frozenset[str]:
    """The sites whose logits depend on no sample, so that all paths have them in common.

    The structure of the program tells: a path's number enters only through its samples, and
    `jax.vmap` refuses to return what depends on it as common to all. A site in a loop is common to
    all paths only if its logits are at every step. The objective is not run; `plan` is its
    `layout`.

    Example:
      >>> from gumbel import BERNOULLI
      >>> from gumbel.layouts import layout
      >>> from gumbel.sites import as_families
      >>> def objective(params, batch, key, sample):
      ...     first = sample("first", params)
      ...     return (sample("second", params + first) + sample("third", params)).sum(-1)
      >>> arguments = objective, jnp.zeros((1, 2)), None, jax.random.key(0), as_families(BERNOULLI)
      >>> sorted(shared_sites(*arguments, layout(*arguments)))
      ['first', 'third']
    """

    def common(site: str) -> bool:
        def logits() -> Array:
            def of_path(path: Int[Array, ""]) -> Array:
                def draw(site: Site, key: PRNGKey) -> Sample:
                    return independent(site, key, path)

                records = trace(objective, params, batch, key, family, draw).records
                return records[site].logits

            return jax.vmap(of_path, out_axes=None)(jnp.arange(2))

        try:
            jax.eval_shape(logits)
        except ValueError:  # the objective itself raised none for `plan`
            return False
        return True

    return frozenset(filter(common, plan.records))


def own_event(record: Record, per_variable: Array, *, coupled: bool) -> tuple[int, ...]:
    """The axes of one step's variables that share a cost, in an array `[m, B, *loops, *D]`."""
    lead = 1 + lead_of(record.logits[0], record.family, len(record.loops))
    loops = range(lead, lead + len(record.loops))
    first = 1 if coupled else 2
    return tuple(axis for axis in range(first, per_variable.ndim) if axis not in loops)
