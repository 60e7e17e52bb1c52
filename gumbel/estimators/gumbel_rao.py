"""Gumbel-Rao: the straight-through Gumbel-Softmax averaged over the noise that a sample leaves."""

import jax
import jax.numpy as jnp

from gumbel.estimators.base import Estimator, Temperature, register
from gumbel.estimators.options import Range
from gumbel.estimators.pathwise import single_pass, temperature_of
from gumbel.relaxations import straight_through
from gumbel.samplers import Draw, Site
from gumbel.sites import Families
from gumbel.types import PRNGKey, Sample


@register(
    "gumbel_rao",
    unbiased=False,
    relaxes=True,
    independent=False,
    smooth=True,
    ranges={"num_noises": Range(minimum=1)},
)
def gumbel_rao(family: Families, *, num_noises: int = 10) -> Estimator:
    """Gumbel-Rao: one-hot forward, the average of relaxed samples' gradients backward.

        dz/dlogits := (1/R) sum_r d softmax((logits + g_r) / temperature)/dlogits

    with sigmoids for Bernoulli variables. `g_1..g_R` are samples of the Gumbel noise given the
    discrete sample `z`, and are constants. (The relaxed sample given `z` tends to `z` as the
    temperature falls, so a derivative that also followed the noise's dependence on the logits would
    tend to 0 in the mean.) The estimate has the expectation of `st_gumbel_softmax`, including its
    bias, and never a higher variance. With R = 1 it is that estimator, and for large R it tends to
    its expectation given `z`. It needs R times the memory of the relaxed samples, but no further
    pass through the objective. It has no second derivative.

    Args:
      family: family of the sites.
      num_noises: R, at least 1.

    Source: Paulus, Maddison and Krause (2021).
    """

    def draw_at(temperature: Temperature) -> Draw:
        def draw(site: Site, key: PRNGKey) -> Sample:
            sample_key, noise_key = jax.random.split(key)
            z = site.family.sample(sample_key, site.logits)
            at_site = temperature_of(site.name, temperature)

            def relaxed(key: PRNGKey) -> Sample:
                noise = site.family.conditional_noise(key, site.logits, z)
                return site.family.soften(site.logits, jax.lax.stop_gradient(noise), at_site)

            soft = jax.vmap(relaxed)(jax.random.split(noise_key, num_noises))
            return straight_through(z, jnp.mean(soft, axis=0))

        return draw

    return single_pass(family, draw_at)
