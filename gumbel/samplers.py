"""Samplers to pass to an objective, and `trace`, on which every estimator is built.

A sampler decides which values the objective gets: discrete samples, means, or observed values.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from gumbel.arguments import check_arrays, check_key, check_point, suggestion
from gumbel.families import Family
from gumbel.numerics import concrete_or_none, upcast
from gumbel.relaxations import one_hot_argmax
from gumbel.sites import (
    Draw,
    Families,
    FamilyLike,
    Record,
    RecordingSampler,
    Records,
    Site,
    apply_mask,
    as_families,
    check_logits,
    check_new,
    check_trace,
    checked_mask,
    lead_of,
    loop_length,
    value_mask,
)
from gumbel.tracing import divided_as, trace_state
from gumbel.types import (
    Batch,
    Cost,
    Logits,
    Mask,
    Objective,
    Params,
    PRNGKey,
    Sample,
    Sampler,
)

__all__ = [
    "Draw",
    "Pass",
    "Record",
    "Records",
    "Site",
    "condition",
    "hard",
    "hard_draw",
    "mean_field",
    "sum_per_example",
    "trace",
]


class Pass(NamedTuple):
    """One recorded pass through an objective.

    Attributes:
      cost: `[B]` in nats, or `[]` if examples are coupled; at least float32.
      records: `{site: Record}`, in the order of the calls.
      aux: the second value that the objective returned, or None.
      observed: the sites that `condition` gave values.
    """

    cost: Cost
    records: Records
    aux: PyTree
    observed: frozenset[str] = frozenset()

    @property
    def coupled(self) -> bool:
        """Whether all examples share one cost."""
        return jnp.ndim(self.cost) == 0

    def sum(self, per_variable: Float[Array, "B *D"]) -> Cost:
        """Sums over the variables of each example, or over all variables if coupled."""
        return jnp.sum(per_variable) if self.coupled else sum_per_example(per_variable)

    def log_prob(self) -> Cost:
        """`sum_site sum_d log q(z_d)`, for each cost."""
        return total(list(self.log_prob_by_layer().values()))

    def log_prob_by_layer(self) -> dict[int, Cost]:
        """`log_prob` by layer, in order. A layer is a site, or an outermost loop with its sites."""
        terms: dict[int, list[Cost]] = {}
        for record in self.records.values():
            terms.setdefault(record.layer, []).append(self.sum(record.log_prob()))
        return {layer: total(found) for layer, found in terms.items()}


def trace(
    objective: Objective,
    params: Params,
    batch: Batch,
    key: PRNGKey,
    family: FamilyLike,
    draw: Draw,
    *,
    given: Mapping[str, PyTree] | None = None,
    like: Records | None = None,
) -> Pass:
    """Runs the objective once, takes the value of each site from `draw`, and records the sites.

    Args:
      objective: see `gumbel.Objective`.
      params, batch: passed to the objective.
      key: split into a key for the objective and a key for each site, by the order of the sites.
        Two passes with the same key draw the same samples.
      family: family of the sites: one for all, a mapping by site, or None if every call names it.
      draw: `draw(site, key) -> z`, where `site` is a `gumbel.samplers.Site`.
      given: arrays by site, in the layout of `Record.z`, which `draw` finds in `site.given`.
      like: records of an earlier pass; required with `given`.

    Returns:
      The cost, the records of the sites, and what else the objective returned.

    Raises:
      TypeError: the cost is not a floating-point array, the objective returned something else, or
        `key` is not a key.
      ValueError: a site is sampled twice or inside another transformation, there is no site, the
        batch is empty, the first axis of a cost or site is not the batch, or the objective changes
        a Flax module that was made outside of it.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from gumbel import BERNOULLI, samplers
      >>> def objective(params, batch, key, sample):
      ...     return sample("h", params)[:, 0]
      >>> key, logits = jax.random.key(0), jnp.full((2, 1), 1e4)
      >>> found = samplers.trace(objective, logits, None, key, BERNOULLI, samplers.hard_draw)
      >>> found.cost.tolist(), list(found.records)
      ([1.0, 1.0], ['h'])
    """
    check_key(key, order="(objective, params, batch, key)")
    objective_key, sites_key = jax.random.split(key)
    sample = RecordingSampler(draw, sites_key, as_families(family), given, like)
    try:
        returned = objective(params, batch, objective_key, sample)
    except Exception as error:
        if type(error).__name__ != "TraceContextError":  # of Flax NNX, which is not imported here
            raise
        raise ValueError(
            "the objective changes a module that was made outside of it, such as the stream of a "
            "dropout layer or the statistics of a batch normalization: make the module inside, by "
            "nnx.merge(graph, params, rest, copy=True)"
        ) from error
    cost, aux = _cost_and_aux(returned)
    records = sample.records
    if not records:
        raise ValueError(
            "objective sampled no site: call sample(site, logits) for each variable, and leave one "
            "of them unobserved if values are given by samplers.condition"
        )
    if cost.ndim:
        _check_batch(cost.shape[0], records)
    return Pass(upcast(cost), records, aux, frozenset(sample.observed))


def replayed(
    objective: Objective,
    params: Params,
    batch: Batch,
    key: PRNGKey,
    family: FamilyLike,
    records: Records,
    values: Mapping[str, Sample],
) -> Pass:
    """A pass with given values at every site; `records` are those of an earlier pass."""

    def given(site: Site, _key: PRNGKey) -> Sample:
        return site.given

    return trace(objective, params, batch, key, family, given, given=values, like=records)


def spare_key(key: PRNGKey) -> PRNGKey:
    """A key for an estimator's own noise, different from all that `trace` derives from this key.

    Example:
      >>> key = jax.random.key(0)
      >>> used = [*jax.random.split(key)]  # by `trace`, which folds small numbers into the second
      >>> any(bool(jnp.array_equal(spare_key(key), each)) for each in used)
      False
    """
    return jax.random.fold_in(key, 2)


def _cost_and_aux(returned: Any) -> tuple[Array, PyTree]:
    aux = None
    if isinstance(returned, tuple):
        if len(returned) != 2:
            raise TypeError(
                f"objective returned a tuple of {len(returned)}: return the cost, or (cost, aux)"
            )
        returned, aux = returned
        check_arrays(aux, "aux", "return arrays or numbers beside the cost")
    if not isinstance(returned, jax.Array | np.ndarray | np.generic | float | int):
        raise TypeError(
            f"objective returned a {type(returned).__name__} for its cost: return an array of one "
            "cost per example, or a scalar"
        )
    cost = jnp.asarray(returned)
    if not jnp.issubdtype(cost.dtype, jnp.floating):
        raise TypeError(
            f"objective returned a cost of dtype {cost.dtype}: return floats, such as "
            "cost.astype(jnp.float32)"
        )
    if cost.ndim > 1:
        raise ValueError(
            f"objective returned a cost of shape {cost.shape}: return one cost per example, [B], "
            "or a scalar, which couples the examples"
        )
    if cost.shape == (0,):
        raise ValueError("objective returned a cost of shape (0,): the batch has no examples")
    return cost, aux


def _check_batch(batch_size: int, records: Records) -> None:
    for site, record in records.items():
        shape = jnp.shape(record.logits)
        batched = len(shape) > record.family.event_ndims
        if not batched or shape[0] != batch_size:
            raise ValueError(
                f"logits of site {site!r} have shape {shape}, but the cost has shape "
                f"({batch_size},): put the batch axis of {batch_size} first in both, or return a "
                "scalar cost if the examples share the site"
            )


def total(costs: list[Cost]) -> Cost:
    """The elementwise sum of arrays of one shape."""
    return jnp.sum(jnp.stack(costs), axis=0)


def sum_per_example(per_variable: Float[Array, "B *D"]) -> Float[Array, " B"]:
    """Sums everything but the leading batch axis.

    Example:
      >>> sum_per_example(jnp.ones((2, 3, 4))).tolist()
      [12.0, 12.0]
    """
    return jnp.sum(per_variable.reshape(per_variable.shape[0], -1), axis=1)


def hard_draw(site: Site, key: PRNGKey) -> Sample:
    """Draws discrete samples; no gradient flows through them."""
    return site.family.sample(key, site.logits)


def possible_value(site: Site, z: Sample) -> Sample:
    """Replaces values whose probability underflows to 0 by the mode.

    Such values have weight 0, but their cost, or its derivative, may be infinite, and 0 times
    infinity is NaN.
    """
    logits = jax.lax.stop_gradient(site.logits)
    z = z + jnp.zeros_like(logits)  # sharded as the logits are
    impossible = jnp.exp(site.family.log_prob(logits, z)) == 0
    mode = one_hot_argmax(logits, z) if site.family.event_ndims else (logits > 0).astype(z.dtype)
    return jnp.where(value_mask(impossible, site.family), mode, z)


def hard(key: PRNGKey, family: FamilyLike = None) -> Sampler:
    """A sampler of discrete values, for evaluation.

    Create it inside the function that is jitted or vmapped, not outside.

    Args:
      key: PRNG key; each site uses its own key, by the order of the calls. Not the key that the
        objective is called with: it draws its own noise from that.
      family: family of the sites: one for all, a mapping by site, or None if every call names it.

    Raises:
      TypeError: `key` is not one PRNG key.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from gumbel import BERNOULLI, samplers
      >>> sample = samplers.hard(jax.random.key(0), BERNOULLI)
      >>> sample("h", jnp.array([[-1e4, 1e4]])).tolist()
      [[0.0, 1.0]]
    """
    check_key(key, "(key, family)")
    return RecordingSampler(hard_draw, key, as_families(family))


def mean_field(family: FamilyLike = None) -> Sampler:
    """A sampler that returns the mean of each variable, `E[z]`, instead of a sample.

    Args:
      family: family of the sites: one for all, a mapping by site, or None if every call names it.

    Example:
      >>> import jax.numpy as jnp
      >>> from gumbel import BERNOULLI
      >>> mean_field(BERNOULLI)("h", jnp.zeros((1, 2))).tolist()
      [[0.5, 0.5]]
    """
    return RecordingSampler(
        lambda site, _key: site.family.mean(site.logits), None, as_families(family)
    )


class _Step(NamedTuple):
    """A step of a loop that is being traced: its number, the loop's length, the sites observed."""

    number: Array
    length: int
    seen: set[str]


class _ObservingSampler:
    """A sampler that returns given values at observed sites, and asks another for the rest."""

    def __init__(self, values: Mapping[str, Sample], otherwise: Sampler) -> None:
        self._given = values
        self._otherwise = otherwise
        # Another kind of sampler has no families that are known here: each call has to name one.
        self.families: Families = getattr(otherwise, "families", as_families(None))
        self.observed: set[str] = getattr(otherwise, "observed", set())
        self._traces = [trace_state()]
        self._steps: list[_Step] = []
        self._seen: set[str] = set()  # outside of the loops that are being traced

    @property
    def unused(self) -> set[str]:
        """The observed sites that have not been asked for."""
        return set(self._given) - self._seen

    def __call__(
        self,
        site: str,
        logits: Logits,
        /,
        *,
        family: Family | str | None = None,
        where: Mask | None = None,
    ) -> Sample:
        if site not in self._given:
            options = {"family": family, "where": where}
            given = {name: option for name, option in options.items() if option is not None}
            return self._otherwise(site, logits, **given)  # type: ignore[arg-type]
        check_trace(self._traces[-1], site)
        seen = [self._seen, *(step.seen for step in self._steps)]
        check_new(site, seen)
        seen[-1].add(site)
        self.observed.add(site)
        # The estimator need not support the family of a site that is not sampled.
        found = self.families._replace(supported=()).at(site, family)
        logits = check_logits(site, logits, found)
        mask = checked_mask(site, where, logits, found)
        value = self._at_step(site, logits, mask, found)
        return apply_mask(value.astype(logits.dtype), mask, found)

    def _at_step(self, site: str, logits: Array, mask: Array | None, family: Family) -> Array:
        """The observed value of a site, at this step of the loops around it."""
        given, steps = self._given[site], self._steps
        lead = lead_of(logits, family, 0)
        shape = logits.shape
        if looped := bool(steps) and np.ndim(given) == logits.ndim + len(steps):
            lengths = tuple(step.length for step in steps)
            shape = (*shape[:lead], *lengths, *shape[lead:])
        if np.shape(given) != shape:
            raise ValueError(
                f"observed value of site {site!r} has shape {np.shape(given)}, but its logits have "
                f"{shape}: give one value per variable, one-hot if it is categorical"
            )
        value = jnp.asarray(given)
        _check_observed(site, given, mask, family, range(lead, lead + len(steps) * looped))
        for step in steps if looped else ():
            value = jax.lax.dynamic_index_in_dim(value, step.number, axis=lead, keepdims=False)
        return divided_as(value, like=logits)

    def scan(
        self,
        body: Callable[[Any, Any], tuple[Any, Any]],
        carry: Any,
        xs: Any = None,
        length: int | None = None,
        *,
        reverse: bool = False,
        unroll: int = 1,
    ) -> tuple[Any, Any]:
        num_steps = loop_length(xs, length)
        seen: set[str] = set()

        def step(carry: Any, inputs: tuple[Any, Any]) -> tuple[Any, Any]:
            index, x = inputs
            self._steps.append(_Step(index, num_steps, set()))
            self._traces.append(trace_state())
            try:
                return body(carry, x)
            finally:
                seen.update(self._steps.pop().seen)
                self._traces.pop()

        found = self._otherwise.scan(
            step, carry, (jnp.arange(num_steps), xs), reverse=reverse, unroll=unroll
        )
        (self._steps[-1].seen if self._steps else self._seen).update(seen)
        return found


def _check_observed(
    site: str, given: Sample, mask: Array | None, family: Family, loop_axes: range
) -> None:
    """Raises ValueError if a value, where it is known not to be masked, is none of the variable.

    Args:
      site: name of the site.
      given: values of the variables, as `condition` takes them.
      mask: mask of the variables of one step, or None.
      family: family of the site.
      loop_axes: the axes of `given` that the loops around the site add.
    """
    known = concrete_or_none(given)
    mask_known = np.True_ if mask is None else concrete_or_none(mask)
    if known is None or mask_known is None:
        return
    variables = known.shape[: known.ndim - family.event_ndims]
    of_steps = mask_known if mask is None else np.expand_dims(mask_known, tuple(loop_axes))
    shown = known[np.broadcast_to(of_steps, variables)]
    if not jnp.issubdtype(known.dtype, jnp.floating):
        like = np.zeros(shown.shape[1:])
        check_point(shown, like, event_ndims=family.event_ndims, name=f"the value of {site!r}")
    elif ((shown < 0) | (shown > 1)).any():
        raise ValueError(
            f"observed value of site {site!r} is not within 0 and 1: it is a value of the "
            "variable, one-hot if it is categorical, not its logits"
        )
    elif (
        family.event_ndims
        and not loop_axes  # a loop may leave out steps in its own way
        and (abs(shown.sum(axis=-1, dtype=np.float64) - 1) > 0.01).any()
    ):
        raise ValueError(
            f"observed value of site {site!r} does not sum to 1 over the categories: give "
            "rows that sum to 1, and mask variables that are not observed"
        )


def condition(objective: Objective, values: Mapping[str, Sample]) -> Objective:
    """The objective with some of its sites fixed to observed values.

    Any estimator or sampler can be used for the remaining sites.

    Args:
      objective: see `gumbel.Objective`.
      values: values by site, in the shape of its logits; one-hot if the site is categorical. For a
        site in a loop: `[B, T, ...]`, or `[B, ...]` for one value at every step.

    Returns:
      An objective. It raises a ValueError if it does not sample every site of `values`, if the
      shape of a value differs from that of the logits, if integers are not 0 or 1 or not one-hot,
      or if other numbers are not within 0 and 1, or do not sum to 1 over the categories. Values are
      checked where they and the mask are known. Where `where=` masks a variable, its value is 0,
      whatever is given, such as a placeholder of -1. A NaN that is not masked is no error: the cost
      is NaN then.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from gumbel import BERNOULLI, samplers
      >>> def objective(params, batch, key, sample):
      ...     return sample("y", params)[:, 0] + 10 * sample("h", params)[:, 0]
      >>> observed = samplers.condition(objective, {"y": jnp.ones((1, 1))})
      >>> sample = samplers.mean_field(BERNOULLI)
      >>> observed(jnp.zeros((1, 1)), None, jax.random.key(0), sample).tolist()
      [6.0]
    """

    def conditioned(params: Params, batch: Batch, key: PRNGKey, sample: Sampler) -> Any:
        observing = _ObservingSampler(values, sample)
        returned = objective(params, batch, key, observing)
        if observing.unused:
            site = min(observing.unused)
            sampled = map(repr, getattr(sample, "records", {}))
            hint = suggestion(site, sampled) or "leave it out, or correct its name"
            raise ValueError(f"observed site {site!r} was never sampled: {hint}")
        return returned

    return conditioned
