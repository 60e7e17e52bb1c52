"""Experiments on an objective: what changes when the samples of a site are others?"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from gumbel.numerics import upcast
from gumbel.samplers import Pass, Record, Records, trace
from gumbel.sites import FamilyLike, value_mask
from gumbel.types import Batch, Mask, Objective, Params, PRNGKey, Sample

# What the samples of a site can change: the logits of sites, by name, and the cost, which is None.
Targets: TypeAlias = frozenset[str | None]

NUM_STARTS = 8
_RULED_OUT = 50.0  # log odds against a value that is not meant to come


def replayed(
    objective: Objective,
    params: Params,
    batch: Batch,
    key: PRNGKey,
    family: FamilyLike,
    records: Records,
    values: Mapping[str, Sample],
) -> Pass:
    """A pass with given values at every site."""
    return trace(
        objective,
        params,
        batch,
        key,
        family,
        lambda site, _key: site.given,
        given=values,
        like=records,
    )


def outputs(drawn: Pass) -> list[Array]:
    """What the samples of a pass can change: its costs, and the logits of every site.

    In float32 at least. Logits are NaN where masked, so that a change of the mask shows.
    """
    return [upcast(drawn.cost), *(upcast(_masked_logits(r)) for r in drawn.records.values())]


def _masked_logits(record: Record) -> Array:
    if record.where is None:
        return record.logits
    return jnp.where(value_mask(record.where, record.family), record.logits, jnp.nan)


def reaching_cost(targets: Mapping[str, Targets]) -> frozenset[str]:
    """The sites that reach the cost, at once or by way of other sites.

    Example:
      >>> targets = {"a": {"b"}, "b": {None}, "loop": {"loop"}}
      >>> sorted(reaching_cost(targets))
      ['a', 'b']
    """
    found: set[str] = set()
    while more := {site for site, to in targets.items() if to & {None, *found}} - found:
        found |= more
    return frozenset(found)


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


class Probe:
    """An objective at samples of one's choice, compiled once.

    All the other sites keep the values of a start, so that the effect of a site on another one
    shows in that one's logits.

    Args:
      objective, params, batch: concrete.
      key, family: of `drawn`.
      drawn: a pass with discrete samples.
    """

    def __init__(
        self,
        objective: Objective,
        params: Params,
        batch: Batch,
        key: PRNGKey,
        family: FamilyLike,
        drawn: Pass,
    ) -> None:
        records = drawn.records

        def moved(
            params: Params, start: Start, sites: dict[str, Any], rows: Any, looked_at: Any
        ) -> tuple[list[Array], Bool[Array, " outputs"]]:
            values = {}
            for site, record in records.items():
                z, flip = start.values[site], value_mask(start.flips[site], record.family)
                flip &= sites[site] & _first_axis(rows, z.ndim)
                values[site] = jnp.where(flip, flipped(z, record), z)
            after = outputs(replayed(objective, params, batch, key, family, records, values))
            pairs = zip(start.outputs, after, strict=True)
            return after, jnp.stack([changed(*pair, looked_at) for pair in pairs])

        self._moved = jax.jit(moved)
        self._params = params
        self.drawn = drawn

    def start(self, number: int) -> Start:
        """Start 0 has the samples of `drawn`, the others random ones.

        What is rare under the logits of the model is common there: the values of a site that are
        not ruled out are equally likely, but for a random tilt that all its variables share. Even
        starts flip all variables, odd ones half of them: a cost may not change if all are flipped.
        """
        records, rng = self.drawn.records, np.random.default_rng(number)
        values, flips = {}, {}
        for site, record in records.items():
            values[site] = _tilted_sample(rng, record) if number else record.z
            shape = record.z.shape
            variables = shape[: len(shape) - record.family.event_ndims]
            flips[site] = jnp.asarray(rng.random(variables) < (0.5 if number % 2 else 1))
        start = Start(values, flips, outputs(self.drawn))
        return start._replace(outputs=self._run(start, (), None)[0])

    def changes(
        self, start: Start, sites: Collection[str], rows: np.ndarray | None = None
    ) -> Targets:
        """What changes when samples of these sites are flipped.

        Args:
          start: the samples before, and which of their variables are flipped.
          sites: at which they are flipped.
          rows: the examples whose samples are flipped, and whose outputs are not looked at; if
            None, the samples of all examples are flipped, and all outputs looked at.
        """
        found = np.asarray(self._run(start, sites, rows)[1])
        names = (None, *self.drawn.records)
        return frozenset(name for name, one in zip(names, found, strict=True) if one)

    def _run(
        self, start: Start, sites: Collection[str], rows: np.ndarray | None
    ) -> tuple[list[Array], Bool[Array, " outputs"]]:
        everything = np.ones(self.drawn.cost.shape, bool)
        return self._moved(
            self._params,
            start,
            {site: np.array(site in sites) for site in self.drawn.records},
            everything if rows is None else rows,
            everything if rows is None else ~rows,
        )

    def targets(self, sites: Iterable[str]) -> dict[str, Targets]:
        """What depends on the samples of each site, with those of all others held."""
        found: dict[str, Targets] = {site: frozenset() for site in sites}
        for number in range(NUM_STARTS):
            start = self.start(number)
            for site in found:
                found[site] |= self.changes(start, [site])
        return found


def flipped(z: Sample, record: Record) -> Sample:
    """Another value for every variable: `1 - z`, or the next of K values."""
    return jnp.roll(z, 1, axis=-1) if record.family.event_ndims else 1 - z


def changed(before: Array, after: Array, rows: Any = True) -> Bool[Array, ""]:
    """Whether an array is not the same to rounding, in the rows that are looked at."""
    looked_at = _first_axis(jnp.asarray(rows), before.ndim)
    one, other = jnp.where(looked_at, before, 0), jnp.where(looked_at, after, 0)
    finite = jnp.isfinite(one) & jnp.isfinite(other)
    largest = jnp.max(jnp.where(finite, jnp.maximum(abs(one), abs(other)), 0), initial=0)
    atol = 1e-5 * jnp.minimum(1, largest)  # whatever the unit of the cost is
    close = jnp.where(finite, abs(one - other) <= atol + 1e-4 * abs(other), one == other)
    return ~jnp.all(close | (jnp.isnan(one) & jnp.isnan(other)))


def _first_axis(rows: Array, ndim: int) -> Array:
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


def _tilted_sample(rng: np.random.Generator, record: Record) -> Sample:
    """Values of a site by a random distribution that its variables share, none ruled out."""
    z, logits = record.z, np.asarray(record.logits, np.float32)
    if record.family.event_ndims == 0:
        possible = np.where(abs(logits) < _RULED_OUT, rng.normal(scale=2.0), logits)
        return jnp.asarray(possible > rng.logistic(size=z.shape), z.dtype)
    with np.errstate(invalid="ignore"):  # where all values are at -inf
        below = logits - logits.max(axis=-1, keepdims=True)
    tilt = rng.normal(scale=2.0, size=z.shape[-1:]).astype(np.float32)
    possible = np.where(below > -_RULED_OUT, tilt, below)
    gumbels = -np.log(rng.standard_exponential(z.shape, np.float32))
    chosen = (possible + gumbels).argmax(axis=-1, keepdims=True)
    return jnp.asarray(chosen == np.arange(z.shape[-1]), z.dtype)
