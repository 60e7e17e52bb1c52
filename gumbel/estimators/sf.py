"""The score function, with baselines that do not depend on the sample."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gumbel.estimators.base import Estimator, Info, State, Temperature, register
from gumbel.estimators.derivatives import magic_box
from gumbel.estimators.signal import DECAY, SCALED, Normalizer, SignalState
from gumbel.samplers import Pass, hard_draw, trace
from gumbel.sites import Families
from gumbel.types import Batch, Cost, Objective, Params, PRNGKey


def surrogate_cost(drawn: Pass, baseline: Cost, scale: Float[Array, ""]) -> Cost:
    """`cost + (box - 1) (cost - baseline) / scale`, `box` the magic box of `log q(z)`.

    Its value is the cost. At scale 1 its derivatives of any order estimate those of the expected
    cost; the first is `grad f + (f - baseline) / scale * grad log q(z)`.

    Args:
      drawn: a pass with discrete samples.
      baseline: constants that do not depend on the samples, of the shape of the cost or a scalar.
      scale: scale of the score-function part.
    """
    baseline = jax.lax.stop_gradient(baseline)
    return drawn.cost + (magic_box(drawn.log_prob()) - 1) * (drawn.cost - baseline) / scale


@register(
    "sf",
    unbiased=True,
    derivatives="all",
    ranges={"decay": DECAY},
    biased_if=[SCALED],
    aliases=("reinforce", "score_function"),
)
def sf(
    family: Families,
    *,
    centering: bool = False,
    variance_normalization: bool = False,
    decay: float = 0.99,
) -> Estimator:
    """The score-function estimator, or REINFORCE.

        grad E[f(z)] = E[f(z) grad log q(z) + grad f(z)]

    Args:
      family: family of the sites.
      centering: subtract a moving average of `f`; the estimate stays unbiased.
      variance_normalization: divide by `max(1, sigma)`, where sigma^2 is a moving average of the
        variance of `f`. This scales the score-function part of the estimate, which is then biased
        where `f` depends on the parameters, too.
      decay: decay of the moving averages, in [0, 1).

    Source: Williams (1992); Jang, Gu and Poole (2017), section 3.2.
    """
    normalizer = Normalizer(centering, variance_normalization, decay)

    def init(objective: Objective, params: Params, batch: Batch, key: PRNGKey) -> SignalState:
        return normalizer.init(trace(objective, params, batch, key, family, hard_draw).cost)

    def surrogate(
        objective: Objective,
        params: Params,
        batch: Batch,
        key: PRNGKey,
        temperature: Temperature,
        state: SignalState,
    ) -> tuple[Float[Array, ""], tuple[State, Info]]:
        drawn = trace(objective, params, batch, key, family, hard_draw)
        baseline = normalizer.baseline(state, drawn.cost)
        scale = normalizer.scale(state, drawn.cost)
        signal = jax.lax.stop_gradient((drawn.cost - baseline) / scale)
        value = jnp.mean(surrogate_cost(drawn, baseline, scale))
        info = Info(drawn.cost, {"signal_scale": jnp.std(signal)}, drawn.aux)
        return value, (normalizer.update(state, drawn.cost), info)

    return Estimator(init, surrogate)
