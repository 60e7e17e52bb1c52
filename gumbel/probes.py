"""Experiments on an objective: what changes when the samples of a site are others?"""

import functools
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from gumbel.samplers import Pass, Record, Records, trace
from gumbel.sites import FamilyLike
from gumbel.types import Batch, Objective, Params, PRNGKey, Sample

Effects = list[np.ndarray]


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


def outputs(drawn: Pass) -> list[jax.Array]:
    """What the samples of a pass can change: its costs, and the logits of every site."""
    return [drawn.cost, *(record.logits for record in drawn.records.values())]


def flipped(z: Sample, record: Record) -> Sample:
    """Another value for every variable: `1 - z`, or the next of K values."""
    return jnp.roll(z, 1, axis=-1) if record.family.event_ndims else 1 - z


class Probe:
    """An objective at samples of one's choice, compiled once.

    All the other sites keep the values of `drawn`, so that the effect of a site on another one
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
        def effects(params: Params, values: dict[str, Sample]) -> list[jax.Array]:
            return outputs(replayed(objective, params, batch, key, family, drawn.records, values))

        self._effects = jax.jit(effects)
        self._params = params
        self.drawn = drawn
        self._values = {site: record.z for site, record in drawn.records.items()}

    @functools.cached_property
    def before(self) -> Effects:
        """The outputs with the samples of `drawn`."""
        return self.effects({})

    def effects(self, flips: Mapping[str, np.ndarray]) -> Effects:
        """The outputs with some samples flipped.

        Args:
          flips: by site, which samples are to have another value: booleans that broadcast to z.
        """
        values = dict(self._values)
        for site, flip in flips.items():
            z = values[site]
            other = flipped(z, self.drawn.records[site])
            values[site] = jnp.where(jnp.asarray(flip), other, z)
        return on_host(self._effects(self._params, values))

    def of_rows(self, site: str, rows: np.ndarray, *, seed: int | None = None) -> np.ndarray:
        """The flips of some rows of a site: of each variable, or with a seed of a random half."""
        record = self.drawn.records[site]
        shape = record.z.shape
        flips = rows.reshape(-1, *[1] * (len(shape) - 1))
        if seed is None:
            return flips
        variables = shape[: len(shape) - record.family.event_ndims]
        half = np.random.default_rng(seed).random(variables) < 0.5
        return flips & half.reshape(*variables, *[1] * record.family.event_ndims)

    def is_used(self, site: str) -> bool:
        """Whether the cost, or the logits of a site, depend on the samples of this one."""
        shape = self.drawn.records[site].z.shape
        everything = np.ones(shape[:1] or (1,), bool)
        seeds = (None, *range(3))  # a cost may be the same when all variables are flipped at once
        return any(
            differ(self.before, self.effects({site: self.of_rows(site, everything, seed=seed)}))
            for seed in seeds
        )


def on_host(arrays: list[jax.Array]) -> Effects:
    """Outputs as `differ` compares them."""
    return [np.asarray(array, np.float64) for array in arrays]


def differ(before: Effects, after: Effects, rows: np.ndarray | None = None) -> bool:
    """Whether two lists of effects are not the same to rounding, in some of their rows."""
    keep = slice(None) if rows is None else rows
    return not all(
        np.allclose(
            one[keep] if one.ndim else one,
            other[keep] if one.ndim else other,
            rtol=1e-4,
            atol=1e-5 * min(1.0, _largest(one, other)),  # whatever the unit of the cost is
            equal_nan=True,
        )
        for one, other in zip(before, after, strict=True)
    )


def _largest(*arrays: np.ndarray) -> float:
    """The largest finite magnitude."""
    return max(np.max(np.abs(x), initial=0, where=np.isfinite(x)) for x in arrays)


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
