"""Estimators of one pass whose gradient flows through the sample: cheap, and biased."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gumbel import samplers, schedules
from gumbel.estimators.base import Estimator, Info, State, Temperature, register
from gumbel.families import Family
from gumbel.numerics import upcast
from gumbel.relaxations import straight_through
from gumbel.samplers import Draw
from gumbel.schedules import Schedule
from gumbel.types import Batch, Logits, Objective, Params, PRNGKey, Sample


@register("st", unbiased=False, straight_through=True)
def st(family: Family) -> Estimator:
    """Straight-through: a hard sample forward, the gradient of its mean backward.

        dz/dlogits := d mean(logits)/dlogits

    Exact for a cost that is linear in the samples of one layer, biased otherwise. It does not read
    the temperature.

    Source: Bengio, Léonard and Courville (2013).
    """

    def draw_at(_temperature: Temperature) -> Draw:
        return lambda _site, key, logits: straight_through(
            family.sample(key, logits), family.mean(logits)
        )

    return _single_pass(draw_at)


@register("gumbel_softmax", unbiased=False, relaxes=True)
def gumbel_softmax(family: Family) -> Estimator:
    """Gumbel-Softmax: the relaxed sample forward and backward.

        y = softmax((logits + g) / temperature),    g ~ Gumbel(0, 1)

    (its binary form for Bernoulli variables) takes the place of the discrete sample. Biased for
    the discrete objective at every temperature above 0; as the temperature falls the bias falls
    and the variance rises.

    Source: Jang, Gu and Poole (2017), section 2.1; Maddison, Mnih and Teh (2017).
    """

    def draw_at(temperature: Temperature) -> Draw:
        return lambda _site, key, logits: family.relax(key, logits, temperature)

    return _single_pass(draw_at)


@register("st_gumbel_softmax", unbiased=False, relaxes=True, straight_through=True)
def st_gumbel_softmax(family: Family) -> Estimator:
    """Straight-Through Gumbel-Softmax: one-hot forward, the relaxed sample's gradient backward.

    Source: Jang, Gu and Poole (2017), section 2.2.
    """

    def draw_at(temperature: Temperature) -> Draw:
        return lambda _site, key, logits: family.relax(key, logits, temperature, hard=True)

    return _single_pass(draw_at)


class SlopeState(NamedTuple):
    """The number of surrogates taken so far, which the slope schedule reads."""

    step: Int[Array, ""]


@register("slope_annealed_st", unbiased=False, straight_through=True)
def slope_annealed_st(
    family: Family,
    *,
    slope: Schedule | None = None,
    slope_rate: float = 1e-5,
    slope_maximum: float = 5.0,
    slope_interval: int = 1,
) -> Estimator:
    """Straight-through whose backward mean has a slope that is annealed upward.

        dz/dlogits := d mean(slope * logits)/dlogits

    It does not read the temperature: the state counts the steps, and the slope follows from them.

    Args:
      family: of the sites.
      slope: the schedule, `step -> slope`; the other options make one if it is `None`.
      slope_rate, slope_maximum, slope_interval: see `gumbel.schedules.slope`.

    Source: Chung, Ahn and Bengio (2017), section 4.
    """
    if slope is None:
        slope = schedules.slope(slope_rate, slope_maximum, interval=slope_interval)

    def init(_objective: Objective, _params: Params, _batch: Batch, _key: PRNGKey) -> SlopeState:
        return SlopeState(jnp.zeros((), jnp.int32))

    def surrogate(
        objective: Objective,
        params: Params,
        batch: Batch,
        key: PRNGKey,
        temperature: Temperature,
        state: SlopeState,
    ) -> tuple[Float[Array, ""], tuple[State, Info]]:
        steepness = jnp.asarray(slope(state.step), jnp.float32)

        def draw(_site: str, key: PRNGKey, logits: Logits) -> Sample:
            steeper = family.mean(steepness * upcast(logits)).astype(logits.dtype)
            return straight_through(family.sample(key, logits), steeper)

        cost, _ = samplers.trace(objective, params, batch, key, draw)
        return jnp.mean(cost), (SlopeState(state.step + 1), Info(cost, {"slope": steepness}))

    return Estimator(init, surrogate)


def _single_pass(draw_at: Callable[[Temperature], Draw]) -> Estimator:
    """The estimator that differentiates one pass with the samples of `draw_at(temperature)`."""

    def init(_objective: Objective, _params: Params, _batch: Batch, _key: PRNGKey) -> State:
        return ()

    def surrogate(
        objective: Objective,
        params: Params,
        batch: Batch,
        key: PRNGKey,
        temperature: Temperature,
        state: State,
    ) -> tuple[Float[Array, ""], tuple[State, Info]]:
        cost, _ = samplers.trace(objective, params, batch, key, draw_at(temperature))
        return jnp.mean(cost), (state, Info(cost, {}))

    return Estimator(init, surrogate)
