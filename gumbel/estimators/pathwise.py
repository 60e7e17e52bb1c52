"""One-pass estimators whose gradient flows through the sample: cheap, but biased."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gumbel import schedules
from gumbel.arguments import check_function
from gumbel.estimators.base import Estimator, Info, State, Temperature, no_state, register
from gumbel.estimators.options import Range
from gumbel.numerics import upcast
from gumbel.relaxations import straight_through
from gumbel.samplers import Pass, trace
from gumbel.schedules import Schedule
from gumbel.sites import Draw, Families, Site
from gumbel.types import Batch, Objective, Params, PRNGKey, Sample


@register("st", unbiased=False, independent=False, smooth=True)
def st(family: Families) -> Estimator:
    """Straight-through: a hard sample forward, the gradient of its mean backward.

        dz/dlogits := d mean(logits)/dlogits

    It is unbiased for one layer and a cost that is linear in each variable given the others, and
    biased otherwise. It does not read the temperature, and has no second derivative.

    Source: Bengio, Léonard and Courville (2013).
    """

    def draw(site: Site, key: PRNGKey) -> Sample:
        z = site.family.sample(key, site.logits)
        return straight_through(z, site.family.mean(site.logits))

    return single_pass(family, lambda _temperature: draw)


@register(
    "gumbel_softmax",
    unbiased=False,
    relaxes=True,
    independent=False,
    smooth=True,
    derivatives="relaxed",
)
def gumbel_softmax(family: Families) -> Estimator:
    """Gumbel-Softmax: the relaxed sample forward and backward.

        y = softmax((logits + g) / temperature),    g ~ Gumbel(0, 1)

    (or its binary form for Bernoulli variables) replaces the discrete sample. It is biased for the
    discrete objective at every temperature above 0. As the temperature falls, the bias falls and
    the variance rises. Derivatives of any order are those of the relaxed objective.

    Source: Jang, Gu and Poole (2017), section 2.1; Maddison, Mnih and Teh (2017).
    """

    def draw_at(temperature: Temperature) -> Draw:
        return lambda site, key: site.family.relax(
            key, site.logits, temperature_of(site.name, temperature)
        )

    return single_pass(family, draw_at)


@register("st_gumbel_softmax", unbiased=False, relaxes=True, independent=False, smooth=True)
def st_gumbel_softmax(family: Families) -> Estimator:
    """Straight-through Gumbel-Softmax: one-hot forward, the relaxed sample's gradient backward.

    Source: Jang, Gu and Poole (2017), section 2.2.
    """

    def draw_at(temperature: Temperature) -> Draw:
        return lambda site, key: site.family.relax(
            key, site.logits, temperature_of(site.name, temperature), hard=True
        )

    return single_pass(family, draw_at)


class SlopeState(NamedTuple):
    """The number of surrogates taken so far, which the slope schedule reads."""

    step: Int[Array, ""]


@register(
    "slope_annealed_st",
    unbiased=False,
    independent=False,
    smooth=True,
    ranges={
        "slope_rate": Range(minimum=0.0),
        "slope_maximum": Range(minimum=1e-30),
        "slope_interval": Range(minimum=1),
    },
)
def slope_annealed_st(
    family: Families,
    *,
    slope: Schedule | None = None,
    slope_rate: float = 1e-5,
    slope_maximum: float = 5.0,
    slope_interval: int = 1,
) -> Estimator:
    """Straight-through with a slope in the backward pass that increases during training.

        dz/dlogits := d mean(slope * logits)/dlogits

    It does not read the temperature. The state counts the steps, from which the slope follows.

    Args:
      family: family of the sites.
      slope: a schedule, `step -> slope`; if `None`, the other options define one.
      slope_rate, slope_maximum, slope_interval: see `gumbel.schedules.slope`.

    Source: Chung, Ahn and Bengio (2017), section 3.3.
    """
    if slope is None:
        slope = schedules.slope(slope_rate, slope_maximum, interval=slope_interval)
    fix = "a function of the step, such as gumbel.schedules.slope(1e-5, 5.0)"
    check_function(slope, "estimator 'slope_annealed_st': slope", fix)

    def init(objective: Objective, params: Params, batch: Batch, key: PRNGKey) -> SlopeState:
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

        def draw(site: Site, key: PRNGKey) -> Sample:
            logits = site.logits
            wide = upcast(logits)
            steeper = site.family.mean(steepness.astype(wide.dtype) * wide).astype(logits.dtype)
            return straight_through(site.family.sample(key, logits), steeper)

        drawn = trace(objective, params, batch, key, family, draw)
        info = Info(drawn.cost, {"slope": steepness}, drawn.aux)
        return jnp.mean(drawn.cost), (SlopeState(state.step + 1), info)

    return Estimator(init, surrogate)


def temperature_of(site: str, temperature: Temperature) -> Float[Array, ""] | float:
    """The temperature of a site: the one for all sites, or its entry of a mapping.

    Raises:
      ValueError: the mapping does not name the site.
    """
    if not isinstance(temperature, Mapping):
        return temperature
    if site not in temperature:
        named = ", ".join(map(repr, temperature)) or "none"
        raise ValueError(f"no temperature for site {site!r}: the mapping names {named}")
    return temperature[site]


def check_sites(temperature: Temperature, drawn: Pass) -> None:
    """Raises ValueError if a mapping of temperatures names a site that the pass does not have.

    Observed sites may have one, so that one mapping works for all objectives of a model.
    """
    if isinstance(temperature, Mapping):
        for site in temperature:
            if site not in drawn.records and site not in drawn.observed:
                known = ", ".join(map(repr, drawn.records))
                raise ValueError(
                    f"temperature names site {site!r}, which was not sampled: sites are {known}"
                )


def single_pass(family: Families, draw_at: Callable[[Temperature], Draw]) -> Estimator:
    """The estimator that differentiates one pass with the samples of `draw_at(temperature)`.

    Args:
      family: family of the sites.
      draw_at: gives the draw.
    """

    def surrogate(
        objective: Objective,
        params: Params,
        batch: Batch,
        key: PRNGKey,
        temperature: Temperature,
        state: State,
    ) -> tuple[Float[Array, ""], tuple[State, Info]]:
        drawn = trace(objective, params, batch, key, family, draw_at(temperature))
        check_sites(temperature, drawn)
        return jnp.mean(drawn.cost), (state, Info(drawn.cost, {}, drawn.aux))

    return Estimator(no_state, surrogate)
