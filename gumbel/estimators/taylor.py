"""Score-function estimators whose baseline is a first-order Taylor expansion: DARN and MuProp."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gumbel.estimators.base import Estimator, Info, State, Temperature, register
from gumbel.estimators.derivatives import magic_box, without_value
from gumbel.estimators.options import Range
from gumbel.estimators.signal import DECAY, SCALED, Normalizer, SignalState
from gumbel.numerics import zero_where_not_finite
from gumbel.samplers import Draw, Pass, Records, Site, hard_draw, total, trace
from gumbel.sites import Families
from gumbel.tracing import whole
from gumbel.types import Batch, Cost, Objective, Params, PRNGKey, Sample

Slopes = dict[str, Sample]


@register("darn", unbiased=False, smooth=True, passes="2 + 2", ranges={"decay": DECAY})
def darn(
    family: Families,
    *,
    centering: bool = False,
    variance_normalization: bool = False,
    decay: float = 0.99,
) -> Estimator:
    """The estimator of DARN: a first-order Taylor baseline without its correction.

    The baseline of each variable `i` is the tangent at the sample, evaluated at the uniform mean
    `zbar` (1/2 for Bernoulli variables, 1/K for categorical ones):
    `b_i = f(z) + f'_i(z) (zbar_i - z_i)`. So

        signal_i = f(z) - b_i = f'_i(z) (z_i - zbar_i)

    It is unbiased for one layer of Bernoulli variables and a quadratic `f`, and biased otherwise,
    because `b_i` depends on the sample and there is no correction. In a stack, `f'` passes through
    later layers by the derivative of their means. The tangent has to be taken at the sample: with
    the tangent at `zbar`, as some accounts state it, the signal of a linear `f` would be zero. It
    has no second derivative.

    Args:
      family: family of the sites.
      centering: subtract a moving average of the signal.
      variance_normalization: divide by `max(1, sigma)`, where sigma^2 is a moving average of the
        signal's variance over variables and examples.
      decay: decay of the moving averages, in [0, 1).

    Source: Gregor, Danihelka, Mnih, Blundell and Wierstra (2014); the "1/2" estimator of Gu et
    al. (2016).
    """
    normalizer = Normalizer(centering, variance_normalization, decay)

    def signals_of(
        objective: Objective, params: Params, batch: Batch, key: PRNGKey
    ) -> tuple[Pass, dict[str, Float[Array, "B *D"]]]:
        drawn = trace(objective, params, batch, key, family, hard_draw)

        def probed(site: Site, key: PRNGKey) -> Sample:
            mean = site.family.mean(site.logits)
            return site.family.sample(key, site.logits) + without_value(mean) + site.given

        # The same key, so the same samples.
        given = {site: jnp.zeros_like(record.z) for site, record in drawn.records.items()}
        _, slopes = _slopes(objective, params, batch, key, family, probed, drawn.records, given)
        signal = {}
        for site, record in drawn.records.items():
            uniform = record.family.uniform_mean(record.logits)
            product = (slopes[site] * (record.z - uniform)).astype(drawn.cost.dtype)
            signal[site] = product.sum(axis=-1) if record.family.event_ndims else product
        return drawn, signal

    def pooled(
        records: Records, signal: dict[str, Float[Array, "B *D"]]
    ) -> tuple[Float[Array, " N"], Bool[Array, " N"] | None]:
        """The signal of all variables, and which of them are not masked; None if none is."""
        flat = jnp.concatenate([whole(s, 1).ravel() for s in signal.values()])
        if all(record.where is None for record in records.values()):
            return flat, None
        kept = [records[site].masked(jnp.ones_like(s, bool), False) for site, s in signal.items()]
        return flat, jnp.concatenate([whole(k, 1).ravel() for k in kept])

    def init(objective: Objective, params: Params, batch: Batch, key: PRNGKey) -> SignalState:
        drawn, signal = signals_of(objective, params, batch, key)
        return normalizer.init(*pooled(drawn.records, signal))

    def surrogate(
        objective: Objective,
        params: Params,
        batch: Batch,
        key: PRNGKey,
        temperature: Temperature,
        state: SignalState,
    ) -> tuple[Float[Array, ""], tuple[State, Info]]:
        drawn, signal = signals_of(objective, params, batch, key)
        baseline = normalizer.baseline(state, drawn.cost)
        scale = normalizer.scale(state, drawn.cost)
        score = [
            drawn.sum(jax.lax.stop_gradient((signal[site] - baseline) / scale) * record.log_prob())
            for site, record in drawn.records.items()
        ]
        scores = total(score)
        value = jnp.mean(drawn.cost + without_value(scores))
        flat, kept = pooled(drawn.records, signal)
        metrics = {"signal_scale": jnp.std(flat, where=kept) / scale}
        next_state = normalizer.update(state, flat, where=kept)
        return value, (next_state, Info(drawn.cost, metrics, drawn.aux))

    return Estimator(init, surrogate)


class _Expansion(NamedTuple):
    """The Taylor expansion that is one layer's baseline.

    Attributes:
      cost: f at the expansion point, a constant.
      innovations: by layer, `sum_d slope_d (z_d - mean_d)`, differentiable in the means.
    """

    cost: Cost
    innovations: dict[int, Cost]


@register(
    "muprop",
    unbiased=True,
    slopes=True,
    derivatives="all",
    passes="(1 + L) + (1 + L)",
    passes_if={("expansion", "mean_field"): "2 + 2"},
    biased_if=[SCALED],
    ranges={"decay": DECAY, "expansion": Range(choices=("local", "mean_field"))},
)
def muprop(
    family: Families,
    *,
    expansion: str = "local",
    centering: bool = False,
    variance_normalization: bool = False,
    scale_correction: bool = True,
    decay: float = 0.99,
) -> Estimator:
    """MuProp: a Taylor baseline at the mean field, with the correction that makes it unbiased.

    With `mu_l(z_<l)` the mean of layer `l` given the samples of earlier layers, layer `l` has the
    baseline

        h_l = f_l + sum_{k >= l} f'_lk . (z_k - mu_k(z_<k))

    and the estimate is

        grad f(z) + sum_l [ (f(z) - h_l) grad log q_l(z_l | z_<l) + f'_ll . grad mu_l(z_<l) ].

    `f_l` is the cost of a mean-field pass that starts from the samples below layer `l`, and `f'_lk`
    is its total derivative in the output of layer `k`. All terms of the baseline depend only on
    earlier samples, or have mean zero given them. With `expansion="mean_field"`, a single pass that
    starts from the input is used for every layer. This is cheaper, but noisier for the later
    layers of a stack, whose samples are far from the expansion point. For one layer both are the
    same. The sites of one loop count as one layer.

    Args:
      family: family of the sites.
      expansion: `local`, which takes L + 1 passes with L layers; or `mean_field`, 2 passes.
      centering: subtract a moving average of `f - h_l`; the estimate stays unbiased.
      variance_normalization: divide `f - h_l` and the correction by `max(1, sigma)`, where sigma^2
        is a moving average of the variance of `f - h_l` over layers and examples. This scales all
        of the estimate but `grad f(z)`, so it is biased where `f` depends on the parameters, too.
      scale_correction: if False, variance normalization divides only `f - h_l`. The estimate is
        then biased toward the gradient of the mean field, the more so the larger sigma is.
      decay: decay of the moving averages, in [0, 1).

    Source: Gu, Levine, Sutskever and Mnih (2016), section 3.
    """
    normalizer = Normalizer(centering, variance_normalization, decay)

    def expanded(
        objective: Objective, params: Params, batch: Batch, key: PRNGKey
    ) -> tuple[Pass, dict[int, _Expansion], Float[Array, "L ..."]]:
        drawn = trace(objective, params, batch, key, family, hard_draw)
        layers = list(dict.fromkeys(record.layer for record in drawn.records.values()))
        expansions: dict[int, _Expansion] = {}
        for layer in layers:
            if expansion == "mean_field" and expansions:
                expansions[layer] = next(iter(expansions.values()))
            else:
                expansions[layer] = _expand(objective, params, batch, key, family, drawn, layer)
        residuals = [
            drawn.cost - expansions[layer].cost - total(_from(expansions[layer], layer))
            for layer in layers
        ]
        return drawn, expansions, jax.lax.stop_gradient(jnp.stack(residuals))

    def init(objective: Objective, params: Params, batch: Batch, key: PRNGKey) -> SignalState:
        return normalizer.init(expanded(objective, params, batch, key)[2])

    def surrogate(
        objective: Objective,
        params: Params,
        batch: Batch,
        key: PRNGKey,
        temperature: Temperature,
        state: SignalState,
    ) -> tuple[Float[Array, ""], tuple[State, Info]]:
        drawn, expansions, residuals = expanded(objective, params, batch, key)
        scale = normalizer.scale(state, drawn.cost)
        log_q = drawn.log_prob_by_layer()
        everything = magic_box(total(list(log_q.values()))) - 1
        controlled = everything * (drawn.cost - normalizer.baseline(state, drawn.cost))
        controlled -= _control_variate(log_q, expansions)
        value = drawn.cost + without_value(controlled) / scale
        if not scale_correction:
            corrections = total([own.innovations[layer] for layer, own in expansions.items()])
            value -= without_value(corrections) * (1 - 1 / scale)
        metrics = {"signal_scale": jnp.std(residuals) / scale}
        next_state = normalizer.update(state, residuals, of_one=drawn.cost.size == 1)
        return jnp.mean(value), (next_state, Info(drawn.cost, metrics, drawn.aux))

    return Estimator(init, surrogate)


def _expand(
    objective: Objective,
    params: Params,
    batch: Batch,
    key: PRNGKey,
    family: Families,
    drawn: Pass,
    layer: int,
) -> _Expansion:
    """Expands at the samples below `layer`, and from there on at the means given them."""
    records = drawn.records

    def draw(site: Site, _key: PRNGKey) -> Sample:
        if records[site.name].layer < layer:
            return site.given
        return site.family.mean(site.logits) + site.given

    given = {
        site: record.z if record.layer < layer else jnp.zeros_like(record.z)
        for site, record in records.items()
    }
    found = _slopes(objective, params, batch, key, family, draw, records, given)
    # Any function of the samples below keeps the estimate unbiased, so 0 where it is not finite.
    cost, slopes = zero_where_not_finite(found)
    innovations: dict[int, list[Cost]] = {}
    for site, record in records.items():
        if record.layer >= layer:
            product = slopes[site] * (jax.lax.stop_gradient(record.z) - record.mean())
            innovations.setdefault(record.layer, []).append(
                drawn.sum(product.astype(drawn.cost.dtype))
            )
    return _Expansion(cost, {layer: total(terms) for layer, terms in innovations.items()})


def _from(expansion: _Expansion, layer: int) -> list[Cost]:
    """The innovations of a layer and of those above it."""
    return [value for later, value in expansion.innovations.items() if later >= layer]


def _control_variate(log_q: dict[int, Cost], expansions: dict[int, _Expansion]) -> Cost:
    """MuProp's control variate.

    Its expectation is 0 for all parameters, and its derivative gives the baselines.

    With `D(x)` the magic box, layer `l` has the terms

        D(q_<l) (D(q_l) - 1) f_l + D(q_l) i_ll + sum_{k > l} (D(q_l) - 1) D(q_k) i_lk

    where `i_lk` is the innovation of layer `k` with the slopes of layer `l`.
    """
    terms, below = [], jnp.zeros_like(next(iter(log_q.values())))
    for layer, own in expansions.items():
        up_to = below + log_q[layer]
        box = magic_box(log_q[layer])
        terms.append((magic_box(up_to) - magic_box(below)) * own.cost)
        terms.append(box * own.innovations[layer])
        terms += [
            (box - 1) * magic_box(log_q[above]) * innovation
            for above, innovation in own.innovations.items()
            if above > layer
        ]
        below = up_to
    return total(terms)


def _slopes(
    objective: Objective,
    params: Params,
    batch: Batch,
    key: PRNGKey,
    family: Families,
    draw: Draw,
    records: Records,
    given: Slopes,
) -> tuple[Cost, Slopes]:
    """The cost of the pass with `draw`, and its total derivative in what each site is given.

    A draw that adds what it is given to its value makes this the derivative in the site's output,
    the effect on later sites included. Both are constants: no gradient flows through them.
    """

    def summed(given: Slopes) -> tuple[Float[Array, ""], Cost]:
        args = (jax.lax.stop_gradient(params), batch, key)
        cost = trace(objective, *args, family, draw, given=given, like=records).cost
        return jnp.sum(cost), cost

    slopes, cost = jax.grad(summed, has_aux=True)(jax.lax.stop_gradient(given))
    return jax.lax.stop_gradient(cost), jax.lax.stop_gradient(slopes)
