"""Score-function estimators whose baseline is a first-order Taylor expansion: DARN and MuProp."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gumbel import samplers
from gumbel.estimators.base import Estimator, Info, State, Temperature, register
from gumbel.estimators.signal import Normalizer, SignalState
from gumbel.families import Family
from gumbel.samplers import Records
from gumbel.types import Batch, Cost, Logits, Objective, Params, PRNGKey, Sample

stop_gradient = jax.lax.stop_gradient
Slopes = dict[str, Sample]


@register("darn", unbiased=False)
def darn(
    family: Family,
    *,
    centering: bool = False,
    variance_normalization: bool = False,
    decay: float = 0.99,
) -> Estimator:
    """DARN's estimator: a Taylor baseline towards the uniform mean, its correction left out.

    Each variable `i` has the baseline `b_i = f(z) + f'_i(z) (zbar_i - z_i)`, the value at `zbar`
    (1/2 for Bernoulli variables, 1/K for categorical ones) of the tangent at the sample, so that

        signal_i = f(z) - b_i = f'_i(z) (z_i - zbar_i)

    It is unbiased for one layer of Bernoulli variables and a quadratic `f`, and biased otherwise:
    `b_i` depends on the sample and no term makes up for that. In a stack, `f'` passes through a
    later layer by the derivative of its mean. The tangent has to be the one at the sample: with the
    tangent at `zbar` the signal of a linear `f` would be zero.

    Args:
      family: of the sites.
      centering: subtract a moving average of the signal.
      variance_normalization: divide by `max(1, sigma)`, sigma^2 a moving average of the signal's
        variance over variables and examples.
      decay: of the moving averages.

    Source: Gregor, Danihelka, Mnih, Blundell and Wierstra (2014); the "1/2" estimator of Gu et
    al. (2016).
    """
    normalizer = Normalizer.make(centering, variance_normalization, decay)

    def signals_of(
        objective: Objective, params: Params, batch: Batch, key: PRNGKey
    ) -> tuple[Cost, Records, dict[str, Float[Array, "B *D"]]]:
        cost, records = samplers.trace(objective, params, batch, key, samplers.hard_draw(family))

        def probed(_site: str, key: PRNGKey, logits: Logits) -> Sample:
            mean = family.mean(logits)
            return family.sample(key, logits) + (mean - stop_gradient(mean))

        # The same key, so the same samples.
        _, slopes = _value_and_slopes(objective, params, batch, key, probed, records)
        signal = {}
        for site, (logits, z) in records.items():
            product = slopes[site] * (z - family.uniform_mean(logits))
            signal[site] = product.sum(axis=-1) if family.event_ndims else product
        return cost, records, signal

    def pooled(signal: dict[str, Float[Array, "B *D"]]) -> Float[Array, " N"]:
        return jnp.concatenate([s.ravel() for s in signal.values()])

    def init(objective: Objective, params: Params, batch: Batch, key: PRNGKey) -> SignalState:
        return normalizer.init(pooled(signals_of(objective, params, batch, key)[2]))

    def surrogate(
        objective: Objective,
        params: Params,
        batch: Batch,
        key: PRNGKey,
        temperature: Temperature,
        state: SignalState,
    ) -> tuple[Float[Array, ""], tuple[State, Info]]:
        cost, records, signal = signals_of(objective, params, batch, key)
        score = [
            samplers.sum_per_example(
                normalizer(state, signal[site])[0] * family.log_prob(logits, z)
            )
            for site, (logits, z) in records.items()
        ]
        value = jnp.mean(cost + sum(score))
        info = Info(cost, {"signal_scale": jnp.std(normalizer(state, pooled(signal))[0])})
        return value, (normalizer.update(state, pooled(signal)), info)

    return Estimator(init, surrogate)


@register("muprop", unbiased=True)
def muprop(
    family: Family,
    *,
    centering: bool = False,
    variance_normalization: bool = False,
    scale_correction: bool = True,
    decay: float = 0.99,
) -> Estimator:
    """MuProp: a Taylor baseline at the mean field, with the correction that makes it unbiased.

        h = f(zbar) + sum_l f'_l(zbar) (z_l - mu_l(z_<l))
        estimate = (f(z) - h) grad log q(z) + sum_l f'_l(zbar) grad mu_l(z_<l) + grad f(z)

    `zbar` is the mean field, `f'_l` the total derivative there in the output of layer `l`, and
    `mu_l(z_<l)` the mean of layer `l` given the samples below it. Expanding in the innovations
    `z_l - mu_l(z_<l)`, which have mean zero given the layers below, makes one `h` serve every
    layer of a stack: the terms of the later layers vanish in expectation.

    Args:
      family: of the sites.
      centering: subtract a moving average of `f - h`; unbiased all the same.
      variance_normalization: divide `f - h` and the correction by `max(1, sigma)`, sigma^2 a
        moving average of the variance of `f - h`; this scales the estimate.
      scale_correction: if False, variance normalization divides `f - h` alone. Then the estimate
        is biased towards the mean field's gradient, the more so the larger sigma is.
      decay: of the moving averages.

    Source: Gu, Levine, Sutskever and Mnih (2016), section 3.
    """
    normalizer = Normalizer.make(centering, variance_normalization, decay)

    def residual_of(
        objective: Objective, params: Params, batch: Batch, key: PRNGKey
    ) -> tuple[Cost, Records, Slopes, Cost]:
        cost, records = samplers.trace(objective, params, batch, key, samplers.hard_draw(family))

        def mean_field(_site: str, _key: PRNGKey, logits: Logits) -> Sample:
            return family.mean(logits)

        value, slopes = _value_and_slopes(objective, params, batch, key, mean_field, records)
        innovations = {site: z - family.mean(logits) for site, (logits, z) in records.items()}
        residual = cost - value - _inner(slopes, innovations)
        return cost, records, slopes, residual

    def init(objective: Objective, params: Params, batch: Batch, key: PRNGKey) -> SignalState:
        return normalizer.init(residual_of(objective, params, batch, key)[3])

    def surrogate(
        objective: Objective,
        params: Params,
        batch: Batch,
        key: PRNGKey,
        temperature: Temperature,
        state: SignalState,
    ) -> tuple[Float[Array, ""], tuple[State, Info]]:
        cost, records, slopes, residual = residual_of(objective, params, batch, key)
        signal, next_state = normalizer(state, residual)
        means = {site: family.mean(logits) for site, (logits, _) in records.items()}
        correction = _inner(slopes, means)
        if scale_correction:
            correction = normalizer.scale(state, correction)
        value = jnp.mean(cost + signal * samplers.log_prob(family, records) + correction)
        return value, (next_state, Info(cost, {"signal_scale": jnp.std(signal)}))

    return Estimator(init, surrogate)


def _value_and_slopes(
    objective: Objective,
    params: Params,
    batch: Batch,
    key: PRNGKey,
    draw: Callable[[str, PRNGKey, Logits], Sample],
    records: Records,
) -> tuple[Cost, Slopes]:
    """The cost of the pass with `draw`, and its total derivative in each site's output.

    The derivative is taken in a probe added to what `draw` returns, so it includes the effect on
    later sites. Both are constants: no gradient flows through them.
    """

    def probed(probes: Slopes) -> tuple[Float[Array, ""], Cost]:
        def draw_probed(site: str, key: PRNGKey, logits: Logits) -> Sample:
            return draw(site, key, logits) + probes[site]

        cost, _ = samplers.trace(objective, stop_gradient(params), batch, key, draw_probed)
        return jnp.sum(cost), cost

    probes = {site: jnp.zeros_like(record.z) for site, record in records.items()}
    slopes, cost = jax.grad(probed, has_aux=True)(probes)
    return cost, stop_gradient(slopes)


def _inner(slopes: Slopes, values: dict[str, Sample]) -> Cost:
    """`sum_site <slope, value>`, per example."""
    return jnp.stack(
        [samplers.sum_per_example(slopes[site] * value) for site, value in values.items()]
    ).sum(axis=0)
