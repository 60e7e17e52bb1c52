"""ARM: augment, REINFORCE, merge."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from gumbel.estimators import coupling
from gumbel.estimators.base import Estimator, register
from gumbel.estimators.coupling import Bits, Noise
from gumbel.estimators.options import Range
from gumbel.sites import Families


@register("arm", unbiased=True, passes="m + m", ranges={"num_samples": Range(minimum=2)})
def arm(family: Families, *, num_samples: int = 2) -> Estimator:
    """ARM: the score of the logistic noise, over an antithetic pair.

        [f(1[u > sigmoid(-l)]) - f(1[u < sigmoid(l)])] (u - 1/2)

    for a Bernoulli variable with logit `l` and uniform `u`. A categorical variable is encoded as a
    chain of binary ones. Pairs are antithetic if no logit depends on earlier samples. In the later
    layers of a stack, and in a loop whose steps depend on each other, the two are independent, and
    the cost of one is the baseline of the other. `disarm` integrates `u` out, and its variance is
    never larger. It has no second derivative.

    Args:
      family: family of the sites.
      num_samples: even, at least 2; two per pair.

    Source: Yin and Zhou (2019).
    """
    pairs = coupling.check_even("arm", num_samples)
    return coupling.estimator(family, scores, size=2, groups=pairs)


def scores(bits: Bits) -> tuple[Float[Array, "m m *bits"], Noise]:
    """`2 u - 1`, for two paths and for one; the noise is `u` where 0 is the rarer value."""
    signed = jnp.where(bits.logits > 0, 1, -1) * (2 * bits.noise - 1)
    return (signed[:, None] - signed[None]) / 2, signed
