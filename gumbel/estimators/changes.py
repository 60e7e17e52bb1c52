"""Passes in which one variable of every example takes another value than it drew."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gumbel.estimators.multi import Costs, independent, value_probs
from gumbel.layouts import count_changes, event_shape
from gumbel.numerics import same_rank, upcast
from gumbel.samplers import Record, Records, Site
from gumbel.types import PRNGKey, Sample


def changed_draw(site: Site, key: PRNGKey, path: Int[Array, ""]) -> Sample:
    """A discrete sample, shifted by `site.given` values: by 0 as drawn, by 1 the next value."""
    z = independent(site, key, path)
    if not site.family.event_ndims:
        return jnp.where(site.given > 0, 1 - z, z)
    num_values = z.shape[-1]
    moved = (jnp.argmax(z, axis=-1).astype(site.given.dtype) + site.given[..., 0]) % num_values
    other = jax.nn.one_hot(moved, num_values, dtype=z.dtype)
    return jnp.where((site.given > 0) & ~jnp.isnan(z), other, z)


class Changes(NamedTuple):
    """All single changes at a site: of each variable to each of its other values.

    Attributes:
      name: name of the site.
      record: its shapes.
      coupled: whether the variables of all examples share a cost, so that they change one by one.
    """

    name: str
    record: Record
    coupled: bool

    @property
    def num_values(self) -> int:
        """The values of one variable."""
        return self.record.num_values

    @property
    def size(self) -> int:
        """How many changes there are."""
        return count_changes(self.record, coupled=self.coupled)

    def given(
        self, index: Int[Array, ""], records: Records, num_samples: int
    ) -> dict[str, Int[Array, "..."]]:
        """What to give `changed_draw` for change number `index`; -1 changes nothing."""
        given: dict[str, Any] = {
            name: jnp.zeros((num_samples, *record.z.shape), jnp.int32)
            for name, record in records.items()
        }
        event = event_shape(self.record, coupled=self.coupled)
        variables = event[: len(event) - self.record.family.event_ndims]
        others = max(self.num_values - 1, 1)
        chosen = jnp.arange(math.prod(variables), dtype=index.dtype) == index // others
        shift = jnp.where(chosen, 1 + index % others, 0).astype(jnp.int32).reshape(variables)
        shift = shift[..., None] if self.record.family.event_ndims else shift
        shape = given[self.name].shape
        given[self.name] = jnp.broadcast_to(shift if self.coupled else shift[None], shape)
        return given

    def expected(self, record: Record, differences: Float[Array, "m *B V"]) -> Costs:
        """`sum_d sum_c p_d(c) (f(z_1, .., c, .., z_D) - f(z))` for each path and cost.

        Args:
          record: record of the paths, without a change.
          differences: differences of the costs, one for each change.
        """
        costs, others = differences.shape[:-1], self.num_values - 1
        by_shift = differences.reshape(*costs, -1, others)
        by_shift = jnp.concatenate([jnp.zeros_like(by_shift[..., :1]), by_shift], axis=-1)
        p, z = value_probs(record.logits, record.family), jax.lax.stop_gradient(upcast(record.z))
        number = jnp.argmax(z, axis=-1) if record.family.event_ndims else z.astype(jnp.int32)
        kept = record.masked(jnp.ones(number.shape, bool), fill=False)
        p, number = p.reshape(*costs, -1, self.num_values), number.reshape(*costs, -1)
        values = jnp.arange(self.num_values, dtype=number.dtype)
        shift = jnp.subtract(*same_rank(values, number[..., None])) % self.num_values
        by_value = jnp.take_along_axis(by_shift, shift, axis=-1)
        # An impossible value contributes nothing, even if its cost is infinite.
        terms = jnp.sum(p * jnp.where(p > 0, by_value, 0), axis=-1)
        return jnp.sum(jnp.where(kept.reshape(*costs, -1), terms, 0), axis=-1)
