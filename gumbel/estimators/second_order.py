"""Straight-through estimators that are exact for quadratic costs: ReinMax and ZGR."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gumbel.estimators.base import Estimator, register
from gumbel.estimators.options import Range
from gumbel.estimators.pathwise import single_pass
from gumbel.families import Family
from gumbel.numerics import one_or_nan, upcast
from gumbel.relaxations import straight_through
from gumbel.samplers import Site
from gumbel.sites import Families
from gumbel.types import PRNGKey, Sample

Values = Float[Array, "..."]


@register(
    "reinmax",
    unbiased=False,
    independent=False,
    smooth=True,
    ranges={"mean_temperature": Range(minimum=1.0)},
)
def reinmax(family: Families, *, mean_temperature: float = 1.0) -> Estimator:
    """ReinMax: straight-through with second-order accuracy, by Heun's method instead of Euler's.

    With `J(q) = diag(q) - q q^T`, the derivative of a softmax with value `q`,

        dz/dlogits := 2 J((p_tau + z) / 2) - J(p) / 2,    p_tau = softmax(logits / tau)

    For a Bernoulli variable, `J(q) = q (1 - q)`, with sigmoids for softmaxes. With
    `tau = mean_temperature = 1` it is `zgr`: unbiased for one layer and a cost that is at most
    quadratic in each variable given the others, and biased otherwise. It does not read the
    temperature, and has no second derivative.

    Args:
      family: family of the sites.
      mean_temperature: tau, at least 1.

    Source: Liu, Dong, Liu, Yu and Gao (2023).
    """

    def draw(site: Site, key: PRNGKey) -> Sample:
        z, logits = site.family.sample(key, site.logits), upcast(site.logits)
        mean = site.family.mean(logits)
        middle = (site.family.mean(logits / mean_temperature) + z.astype(logits.dtype)) / 2
        soft = 2 * _as_mean(site.family, logits, middle) - _as_mean(site.family, logits, mean) / 2
        return straight_through(z, soft.astype(z.dtype))

    return single_pass(family, lambda _temperature: draw)


@register("zgr", unbiased=False, independent=False, smooth=True)
def zgr(family: Families) -> Estimator:
    """ZGR, the zero-temperature limit of exact Gumbel-Rao: half straight-through, half DARN.

        dz/dlogits := [J(p) + (z - p)(z - p)^T] / 2,    J(p) = diag(p) - p p^T

    For a Bernoulli variable, `J(p) = p (1 - p)`. It is unbiased for one layer and a cost that is at
    most quadratic in each variable given the others, and biased otherwise. It is `reinmax` with
    `mean_temperature` 1. It does not read the temperature, and has no second derivative.

    Args:
      family: family of the sites.

    Source: Shekhovtsov (2023).
    """

    def draw(site: Site, key: PRNGKey) -> Sample:
        z, logits = site.family.sample(key, site.logits), upcast(site.logits)
        mean = site.family.mean(logits)
        away = jax.lax.stop_gradient(z.astype(logits.dtype) - mean)
        # The derivative of log q(z) is z - p.
        projected = _sum_values(site.family, away * _finite(site.family, logits))
        soft = (_as_mean(site.family, logits, mean) + away * projected) / 2
        return straight_through(z, soft.astype(z.dtype))

    return single_pass(family, lambda _temperature: draw)


def _as_mean(family: Family, logits: Values, q: Values) -> Values:
    """A function of the logits whose derivative is `J(q)`, the Jacobian of the mean at mean `q`."""
    q, finite = jax.lax.stop_gradient(q), _finite(family, logits)
    if family.event_ndims:
        return q * (finite - jnp.sum(q * finite, axis=-1, keepdims=True))
    return q * (1 - q) * finite


def _sum_values(family: Family, x: Values) -> Values:
    """The sum over the values of a variable, of which a Bernoulli variable has one entry."""
    return jnp.sum(x, axis=-1, keepdims=True) if family.event_ndims else x


def _finite(family: Family, logits: Values) -> Values:
    """Logits that can be multiplied by a probability of 0; no gradient where they are infinite."""
    infinite = jnp.isinf(logits)
    if family.event_ndims:  # but NaN for a variable without a possible value
        infinite &= ~jnp.isnan(one_or_nan(logits))
    return jnp.where(infinite, 0, logits)
