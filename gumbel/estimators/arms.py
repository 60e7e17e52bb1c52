"""ARMS, and DisARM, which is ARMS of two samples."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gumbel.estimators import coupling
from gumbel.estimators.base import Estimator, register
from gumbel.estimators.coupling import Bits, Noise
from gumbel.estimators.options import Range
from gumbel.sites import Families


@register("arms", unbiased=True, passes="m + m", ranges={"num_samples": Range(minimum=2)})
def arms(family: Families, *, num_samples: int = 4) -> Estimator:
    """ARMS: the leave-one-out estimate with negatively correlated samples.

        1/m sum_k (f_k - mean_{j != k} f_j) (b_k - p) / (1 - rho)

    for a Bernoulli variable with mean `p`. `rho <= 0` is the correlation of any two of the samples
    `b_1..b_m`, which come from a Dirichlet copula:

        1 - rho = (r - max(2 r^(1/(m-1)) - 1, 0)^(m-1)) / (r (1 - r)),    r = min(p, 1 - p).

    A categorical variable is encoded as a chain of binary ones. Samples are correlated if no logit
    depends on earlier samples. In the later layers of a stack, and in a loop whose steps depend
    on each other, they are independent, and the estimate is that of `rloo`. It has no second
    derivative.

    Args:
      family: family of the sites.
      num_samples: m, at least 2.

    Source: Dimitriev and Zhou (2021).
    """
    return coupling.estimator(family, scores, size=num_samples, groups=1)


@register("disarm", unbiased=True, passes="m + m", ranges={"num_samples": Range(minimum=2)})
def disarm(family: Families, *, num_samples: int = 2) -> Estimator:
    """DisARM, or U2G: antithetic pairs with their uniform noise integrated out.

        1/2 (f(b) - f(b~)) (-1)^b~ 1[b != b~] sigmoid(|l|)

    for a Bernoulli variable with logit `l`, `b = 1[u > sigmoid(-l)]`, `b~ = 1[u < sigmoid(l)]`. A
    categorical variable is encoded as a chain of binary ones: for bits active in both paths the
    formula above applies; for bits active in one, the cost of the other path is the baseline. Pairs
    are antithetic if no logit depends on earlier samples. In the later layers of a stack, and in
    a loop whose steps depend on each other, they are independent, and the estimate is that of
    `rloo` with two samples. It has no second derivative.

    Args:
      family: family of the sites.
      num_samples: even, at least 2; two per pair.

    Source: Dong, Mnih and Tucker (2020); Yin, Ho, Yan, Qian and Zhou (2020); for
    categorical variables Dong, Mnih and Tucker (2021).
    """
    pairs = coupling.check_even("disarm", num_samples)
    return coupling.estimator(family, scores, size=2, groups=pairs)


def scores(bits: Bits) -> tuple[Float[Array, "m m *bits"], Noise]:
    """`(b_i - b_j) / (1 - rho)` for two paths, and `b - p` for one."""
    size = bits.z.shape[0]
    p, rare = jax.nn.sigmoid(bits.logits), jax.nn.sigmoid(-jnp.abs(bits.logits))
    both_rare = jnp.maximum(2 * rare ** (1 / (size - 1)) - 1, 0) ** (size - 1)
    ratio = jnp.where(rare > 0, both_rare / jnp.where(rare > 0, rare, 1), 0)
    pair = (bits.z[:, None] - bits.z[None]) * ((1 - rare) / (1 - ratio))[None]
    return pair, bits.z - p
