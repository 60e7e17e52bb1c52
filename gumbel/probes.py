"""Perturbation experiments: what in an objective changes when the samples of a site change."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from gumbel.arguments import check_params
from gumbel.numerics import upcast
from gumbel.samplers import Pass, Record, Records, hard_draw, replayed, trace
from gumbel.sites import FamilyLike, value_mask
from gumbel.tracing import gathered, is_concrete, jit_with
from gumbel.types import Batch, Mask, Objective, Params, PRNGKey, Sample


class MaskOf(NamedTuple):
    """The mask of a site, by the name of the site."""

    site: str


# What the samples of a site can change: logits, by the name of their site, masks, and the cost.
Target: TypeAlias = str | MaskOf | None
Targets: TypeAlias = frozenset[Target]

NUM_STARTS = 8
_RULED_OUT = 50.0  # log odds against a value from which on it counts as ruled out


def targets_of(records: Records) -> list[Target]:
    """What the samples of a pass can change: its cost, and the logits and masks of its sites."""
    return [None, *records, *(MaskOf(site) for site, r in records.items() if r.where is not None)]


def outputs(drawn: Pass) -> list[Array]:
    """The arrays that `targets_of` names, in float32 at least."""
    records = drawn.records.values()
    masks = [r.where.astype(jnp.float32) for r in records if r.where is not None]
    return [upcast(drawn.cost), *map(_possible_logits, records), *masks]


def draw(
    objective: Objective, params: Params, batch: Batch, key: PRNGKey, family: FamilyLike
) -> tuple[Pass, list[Array]]:
    """A pass with discrete samples, run as one compiled program, and its `outputs`.

    The pass has no `aux`. Every call traces the objective anew.
    """
    traced: list[Pass] = []

    def run(batch: Batch, params: Params, key: PRNGKey) -> tuple[Array, list[Any], list[Array]]:
        drawn = trace(objective, params, batch, key, family, hard_draw)
        traced.append(drawn)
        arrays = [(r.logits, r.z, r.where) for r in drawn.records.values()]
        return drawn.cost, arrays, outputs(drawn)

    cost, arrays, computed = jit_with(batch, run)(params, key)
    [drawn] = traced
    records = {
        site: record._replace(logits=logits, z=z, where=where)
        for (site, record), (logits, z, where) in zip(drawn.records.items(), arrays, strict=True)
    }
    return drawn._replace(cost=cost, records=records, aux=None), computed


def reaching_cost(targets: Mapping[str, Targets]) -> frozenset[str]:
    """The sites that reach the cost, at once or by way of other sites.

    Example:
      >>> targets = {"a": {"b"}, "b": {None}, "loop": {"loop"}}
      >>> sorted(reaching_cost(targets))
      ['a', 'b']
    """
    found: set[str] = set()
    while more := {site for site, to in targets.items() if to & leading(found)} - found:
        found |= more
    return frozenset(found)


def leading(sites: Iterable[str]) -> Targets:
    """What leads to the cost if these sites do: the cost, and their logits and masks."""
    return frozenset({None, *sites, *map(MaskOf, sites)})


class Start(NamedTuple):
    """Where an experiment begins.

    Attributes:
      values: the samples of each site.
      flips: which variables of each site an experiment flips: all, or a random half.
      outputs: what the objective computes from the samples.
    """

    values: dict[str, Sample]
    flips: dict[str, Mask]
    outputs: list[Array]


class Comparison(NamedTuple):
    """What an experiment has changed.

    Attributes:
      targets: what has changed.
      slightly: whether a cost has changed by less than the rounding errors of other, larger costs
        can be, but by more than those of any that are known to be small enough.
    """

    targets: Targets
    slightly: bool


class Probe:
    """An objective that is compiled once and evaluated at chosen samples.

    Sites that are not flipped keep the values of a start, so that the effect of one site on another
    shows in the logits of the other.

    Args:
      objective, params, batch, key: see `gumbel.Objective`; concrete.
      family: family of the sites.

    Attributes:
      drawn: a pass with discrete samples.
      outputs: its outputs.
      concrete: whether its outputs are concrete; if not, nothing can be compared.
    """

    def __init__(
        self,
        objective: Objective,
        params: Params,
        batch: Batch,
        key: PRNGKey,
        family: FamilyLike,
    ) -> None:
        check_params(params)
        params, batch = gathered((params, batch))
        self.drawn, self.outputs = draw(objective, params, batch, key, family)
        records = self.drawn.records
        # The objective itself may hold traced values, of which there is nothing to compare.
        self.concrete = is_concrete(self.outputs)

        def moved(
            batch: Batch,
            params: Params,
            key: PRNGKey,
            start: Start,
            sites: dict[str, Any],
            rows: Any,
        ) -> list[Array]:
            values = {}
            for site, record in records.items():
                z, flip = start.values[site], value_mask(start.flips[site], record.family)
                flip &= sites[site] & first_axis(rows, z.ndim)
                values[site] = jnp.where(flip, flipped(z, record), z)
            return outputs(replayed(objective, params, batch, key, family, records, values))

        def compared(
            before: list[Array], after: list[Array], looked_at: Any
        ) -> tuple[Bool[Array, " outputs"], Bool[Array, ""]]:
            pairs = list(zip(before, after, strict=True))
            found = jnp.stack([changed(*pair, looked_at) for pair in pairs])
            return found, changed_slightly(*pairs[0], looked_at)

        self._moved = jit_with(batch, moved)
        # Apart from it: fused with the comparison, equal numbers would be rounded in two ways.
        self._compared = jax.jit(compared)
        self._arguments = params, key
        self._starts: dict[tuple[int, bool], Start] = {}

    def start(self, number: int, *, relaxed: bool = False) -> Start:
        """Start 0 has the samples of `drawn`, 1 and 2 have extreme ones, the others random ones.

        At starts 1 and 2, all variables have their last or their first value that is not ruled out.
        At the others, values that are rare under the model are common: all that are not ruled out
        are equally likely, up to a random tilt that the variables of a site share. Even starts flip
        all variables, odd ones half of them: a cost may not change if all are flipped. `relaxed`
        values are all random, between 0 and 1.
        """
        if (number, relaxed) not in self._starts:
            values, flips = self.samples(number, relaxed=relaxed)
            start = Start(values, flips, self.outputs)
            start = start._replace(outputs=self._run(start, (), None))
            self._starts[number, relaxed] = start
        return self._starts[number, relaxed]

    def finite(self, start: Start) -> bool:
        """Whether every sample that is possible at a start has a finite cost.

        The samples of one site may rule out a value of another, whose cost may be anything.
        """
        records = self.drawn.records
        computed = dict(zip(targets_of(records), start.outputs, strict=True))
        cost = np.asarray(computed[None])
        possible = np.ones(cost.shape, bool)
        for site, record in records.items():
            chosen = _log_odds(np.asarray(start.values[site]), np.asarray(computed[site]), record)
            one = chosen > 0.01 - _RULED_OUT
            if record.where is not None:
                one |= np.asarray(computed[MaskOf(site)]) == 0
            possible &= one.all(axis=tuple(range(cost.ndim, one.ndim)))
        return bool((np.isfinite(cost) | ~possible).all())

    def finite_if_relaxed(self) -> bool:
        """Whether at relaxed samples, every cost is finite and every variable has a value left."""
        for number in range(NUM_STARTS):
            outputs = self.start(number, relaxed=True).outputs
            computed = dict(zip(targets_of(self.drawn.records), outputs, strict=True))
            finite = [np.isfinite(computed[None])]
            for site, record in self.drawn.records.items():
                logits = np.asarray(computed[site])
                best = logits.max(axis=-1) if record.family.event_ndims else logits
                masked = record.where is not None and np.asarray(computed[MaskOf(site)]) == 0
                finite.append(np.isfinite(best) | masked)
            if not all(one.all() for one in finite):
                return False
        return True

    def samples(
        self, number: int, *, relaxed: bool = False
    ) -> tuple[dict[str, Sample], dict[str, Mask]]:
        """The values and flips of a start, without running the objective."""
        records, rng = self.drawn.records, np.random.default_rng(number)
        values, flips = {}, {}
        for site, record in records.items():
            if relaxed:
                values[site] = _relaxed_values(rng, record)
            else:
                values[site] = _values_at(number, rng, record) if number else record.z
            shape = record.z.shape
            variables = shape[: len(shape) - record.family.event_ndims]
            flips[site] = jnp.asarray(rng.random(variables) < (0.5 if number % 2 else 1))
        return values, flips

    def changes(
        self, start: Start, sites: Collection[str], rows: np.ndarray | None = None
    ) -> Targets:
        """What changes when samples of these sites are flipped; see `compared`."""
        return self.compared(start, sites, rows).targets

    def compared(
        self, start: Start, sites: Collection[str], rows: np.ndarray | None = None
    ) -> Comparison:
        """What changes when samples of these sites are flipped.

        Args:
          start: the samples before, and which of their variables are flipped.
          sites: sites at which they are flipped.
          rows: the examples whose samples are flipped, and whose outputs are not looked at; if
            None, the samples of all examples are flipped, and all outputs looked at.
        """
        looked_at = np.ones(self.drawn.cost.shape, bool) if rows is None else ~rows
        after = self._run(start, sites, rows)
        found, slightly = self._compared(start.outputs, after, looked_at)
        names = zip(targets_of(self.drawn.records), np.asarray(found), strict=True)
        return Comparison(frozenset(name for name, one in names if one), bool(slightly))

    def _run(self, start: Start, sites: Collection[str], rows: np.ndarray | None) -> list[Array]:
        moves = {site: np.array(site in sites) for site in self.drawn.records}
        everything = np.ones(self.drawn.cost.shape, bool)
        after: list[Array] = self._moved(
            *self._arguments, start, moves, everything if rows is None else rows
        )
        return after

    def targets(self, sites: Iterable[str], *, relaxed: bool = False) -> dict[str, Targets]:
        """What depends on the samples of each site, with those of all others held."""
        found: dict[str, Targets] = {site: frozenset() for site in sites}
        for number in range(NUM_STARTS):
            start = self.start(number, relaxed=relaxed)
            for site in found:
                found[site] |= self.changes(start, [site])
        return found


def flipped(z: Sample, record: Record) -> Sample:
    """Another value for every variable: `1 - z`, or the next of K values."""
    return jnp.roll(z, 1, axis=-1) if record.family.event_ndims else 1 - z


def changed(before: Array, after: Array, rows: Any = True) -> Bool[Array, ""]:
    """Whether an array has changed by more than rounding, in the rows that are looked at.

    Unchanged rows are computed from the same numbers by the same program. A tolerance of a few
    units in the last place of the largest entry allows for cancellation between rows.
    """
    looked_at = first_axis(jnp.asarray(rows), before.ndim)
    one, other = jnp.where(looked_at, before, 0), jnp.where(looked_at, after, 0)
    finite = jnp.isfinite(one) & jnp.isfinite(other)
    largest = jnp.max(jnp.where(finite, jnp.maximum(abs(one), abs(other)), 0), initial=0)
    tolerance = 8 * jnp.finfo(before.dtype).eps * largest
    close = jnp.where(finite, abs(one - other) <= tolerance, one == other)
    return ~jnp.all(close | (jnp.isnan(one) & jnp.isnan(other)))


def changed_slightly(before: Array, after: Array, rows: Any) -> Bool[Array, ""]:
    """Whether a cost that is looked at has changed by what is no rounding error of any cost.

    Where a cost is computed with the help of another one, it has errors of the order of that one's
    last place: neither far above nor far below. In units of a cost of 1, far above is from 8 places
    on, as for `changed`, and far below is under a quarter of one.
    """
    eps = jnp.finfo(before.dtype).eps
    size = jnp.maximum(abs(before), abs(after))
    change = jnp.where(rows & jnp.isfinite(size), abs(before - after), 0)
    sizes = jnp.sort(jnp.concatenate([abs(before), abs(after)], axis=None))
    last = jnp.searchsorted(sizes, 4 * change / eps, side="right")
    at_fault = last > jnp.searchsorted(sizes, change / (8 * eps))
    return jnp.any((change > 8 * eps * size) & ~at_fault)


def _possible_logits(record: Record) -> Array:
    """The logits of a site, with those of ruled-out values clipped.

    A logit of -1e9 only rules a value out; it must not set the tolerance for all the others.
    """
    logits = upcast(record.logits)
    if record.family.event_ndims:
        return jnp.maximum(logits, jnp.max(logits, axis=-1, keepdims=True) - _RULED_OUT)
    return jnp.clip(logits, -_RULED_OUT, _RULED_OUT)


def _log_odds(z: np.ndarray, logits: np.ndarray, record: Record) -> np.ndarray:
    """The log odds of the value of each variable, against the most likely one if categorical."""
    if record.family.event_ndims:
        chosen = np.take_along_axis(logits, z.argmax(axis=-1, keepdims=True), axis=-1)[..., 0]
        return np.asarray(chosen - logits.max(axis=-1))
    return np.where(z > 0.5, logits, -logits)


def first_axis(rows: Array, ndim: int) -> Array:
    """One value for each row, or one for all, as an array that broadcasts against the rows."""
    return rows.reshape(rows.shape + (1,) * (ndim - rows.ndim))


def halves(size: int) -> Iterator[np.ndarray]:
    """Sets of rows that separate any two rows: some set contains exactly one of them.

    Example:
      >>> [rows.tolist() for rows in halves(2)]
      [[False, True], [True, False]]
    """
    for bit in range((size - 1).bit_length()):
        rows = (np.arange(size) >> bit) & 1 == 1
        yield rows
        yield ~rows


def _values_at(number: int, rng: np.random.Generator, record: Record) -> Sample:
    """The values of a site at a start above 0, without those that its logits rule out."""
    z, logits = record.z, np.asarray(record.logits, np.float64)
    by_value = bool(record.family.event_ndims)
    size = z.shape[-1:] if by_value else ()
    if number <= 2:  # log odds of the values that all variables share
        ends = np.linspace(-40, 40, size[0]) if by_value else np.asarray(40)
        shared = np.float32(ends if number == 1 else -ends)
    else:
        shared = np.float32(rng.normal(scale=2.0, size=size))
    if not by_value:
        possible = np.where(abs(logits) < _RULED_OUT, shared, logits)
        return jnp.asarray(possible > rng.logistic(size=z.shape), z.dtype)
    with np.errstate(invalid="ignore"):  # where all values are at -inf
        below = logits - logits.max(axis=-1, keepdims=True)
    possible = np.where(below > -_RULED_OUT, shared, below - _RULED_OUT)
    gumbels = -np.log(rng.standard_exponential(z.shape, np.float32))
    chosen = (possible + gumbels).argmax(axis=-1, keepdims=True)
    return jnp.asarray(chosen == np.arange(z.shape[-1]), z.dtype)


def _relaxed_values(rng: np.random.Generator, record: Record) -> Sample:
    """Random values between 0 and 1, which sum to 1 over those of a categorical variable."""
    z = record.z
    if record.family.event_ndims == 0:
        return jnp.asarray(rng.uniform(size=z.shape), z.dtype)
    weights = rng.exponential(size=z.shape) ** 2
    return jnp.asarray(weights / weights.sum(axis=-1, keepdims=True), z.dtype)
