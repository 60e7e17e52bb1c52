"""Gapped straight-through: a softmax in which the draw leads by a gap, without noise."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gumbel.estimators.base import Estimator, Temperature, register
from gumbel.estimators.options import Range
from gumbel.estimators.pathwise import single_pass, temperature_of
from gumbel.families import Family
from gumbel.numerics import upcast
from gumbel.relaxations import straight_through
from gumbel.samplers import Draw, Site
from gumbel.sites import Families
from gumbel.types import PRNGKey, Sample


@register(
    "gapped_st",
    unbiased=False,
    relaxes=True,
    independent=False,
    smooth=True,
    ranges={"gap": Range(minimum=0.0)},
)
def gapped_st(family: Families, *, gap: float = 1.0) -> Estimator:
    """Gapped straight-through: one-hot forward, backward a softmax that agrees with the sample.

        dz/dlogits := d softmax((logits + m(z)) / temperature)/dlogits

    The constant `m(z)` raises the logit of the sampled value to the largest logit, and lowers the
    other logits to at least `gap` below it. A Bernoulli variable has the logits `(l, 0)`. As in
    `st_gumbel_softmax`, the relaxed sample has its largest entry at the sampled value, but it
    contains no noise. It is biased, and has no second derivative.

    Args:
      family: family of the sites.
      gap: smallest difference between the logit of the sampled value and the others, at least 0.

    Source: Fan, Chi, Rudnicky and Ramadge (2022).
    """

    def draw_at(temperature: Temperature) -> Draw:
        def draw(site: Site, key: PRNGKey) -> Sample:
            z = site.family.sample(key, site.logits)
            shift = jax.lax.stop_gradient(_shift(site.family, upcast(site.logits), z, gap))
            at_site = temperature_of(site.name, temperature)
            return straight_through(z, site.family.soften(site.logits, shift, at_site))

        return draw

    return single_pass(family, draw_at)


def _shift(
    family: Family, logits: Float[Array, "..."], z: Sample, gap: float
) -> Float[Array, "..."]:
    """What is added to the logits, so that the value `z` leads by the gap."""
    if family.event_ndims:
        largest = jnp.max(logits, axis=-1, keepdims=True)
        return jnp.where(z > 0.5, largest - logits, -jax.nn.relu(logits + gap - largest))
    return jnp.where(z > 0.5, jax.nn.relu(gap - logits), -jax.nn.relu(gap + logits))
