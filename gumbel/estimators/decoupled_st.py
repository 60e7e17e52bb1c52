"""Decoupled straight-through: draws at one temperature, differentiates at another."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from gumbel.arguments import noise_temperature
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
    "decoupled_st",
    unbiased=False,
    relaxes=True,
    independent=False,
    smooth=True,
    ranges={"draw_temperature": Range(minimum=1e-30)},
)
def decoupled_st(family: Families, *, draw_temperature: float = 1.0) -> Estimator:
    """Decoupled straight-through: one temperature for the draw, another for the derivative.

        z ~ softmax(logits / draw_temperature)
        dz/dlogits := d softmax(logits / temperature)/dlogits

    with sigmoids for Bernoulli variables. With `draw_temperature` 1 the samples are those of the
    model; with `temperature` 1 as well, it is `st`. If both are equal, it is `st` with the logits
    divided by them. With a draw temperature other than 1, it trains with samples that the model
    does not see at test time. It is biased, and has no second derivative.

    Args:
      family: family of the sites.
      draw_temperature: positive; above 1, samples are closer to uniform.

    Source: Shah, Yan, Mozer and Liu (2024), version 2 of arXiv 2410.13331.
    """

    def draw_at(temperature: Temperature) -> Draw:
        def draw(site: Site, key: PRNGKey) -> Sample:
            wide, dtype = upcast(site.logits), site.logits.dtype
            z = site.family.sample(key, _divided(wide, draw_temperature, site.family)).astype(dtype)
            softer = _divided(wide, temperature_of(site.name, temperature), site.family)
            return straight_through(z, site.family.mean(softer).astype(dtype))

        return draw

    return single_pass(family, draw_at)


def _divided(logits: Float[Array, "..."], temperature: Any, family: Family) -> Float[Array, "..."]:
    """`logits / temperature`; an infinite logit has no derivative in the temperature."""
    checked = noise_temperature(temperature, logits, per_row=bool(family.event_ndims))
    finite = ~jnp.isinf(logits)
    return jnp.where(finite, jnp.where(finite, logits, 0) / checked, logits)
