"""The control variate of REBAR and RELAX: a cost of relaxed samples, minus its expectation.

Let `u` be the noise of all sites, `b` the discrete samples that it makes with the sites' logits,
and `c(u)` any smooth function of `u` that does not depend on the logits, so `E[c(u)]` is constant.
Let `l` be the logits of one variable, with the noise of the others fixed, and `u~` its noise given
`b`, differentiable in `l`. Then

    0 = d/dl E[c(u)] = E[ c(u) dlog q(b; l)/dl + dc/du du~/dl ]

The bracket is thus a control variate for every variable at once, from one pass forward and back
through the relaxed model: `c` may follow relaxed samples through any number of layers and loops, as
long as the parameters, and with them the logits along that way, are held constant. Here `u~` has
the value of `u`, which is the coupling that REBAR recommends: the pass at an independent `u~`,
whose expectation is the same, is not needed.

For a layer `l` of a stack, `c_l` has the discrete samples below `l`, and relaxed ones from there
on. It needs a pass for each layer, and is near the cost of the discrete samples.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from gumbel.arguments import check_temperature
from gumbel.estimators.base import Estimator, Info, State, Temperature
from gumbel.estimators.control import ControlState, Learner, squared_estimate
from gumbel.estimators.derivatives import without_value
from gumbel.estimators.pathwise import check_sites, temperature_of
from gumbel.layouts import layout
from gumbel.numerics import upcast, wide_dtype, zero_where_not_finite
from gumbel.samplers import Pass, Record, Records, Site, hard_draw, spare_key, total, trace
from gumbel.sites import Families, value_mask
from gumbel.types import Batch, Cost, Objective, Params, PRNGKey, Sample

Coefficients: TypeAlias = dict[str, PyTree]
Noise: TypeAlias = dict[str, Sample]
# `residual(coefficients of a site, record, noise, temperature) -> (r, dr/dnoise)`, `r` with the
# leading axes of the site's variables, each entry a function of the variables behind it only.
Residual: TypeAlias = Callable[[PyTree, Record, Sample, Any], tuple[Array, Sample]]


class Relaxed(NamedTuple):
    """The relaxed pass of one layer: its cost, and the cost's derivative in the layer's noise."""

    cost: Cost
    slopes: Noise


class RelaxedControl(NamedTuple):
    """The settings in which REBAR and RELAX differ.

    Attributes:
      learner: learner of the coefficients.
      eta: initial value of the coefficients of the relaxed cost.
      learn_temperature: whether a factor of the temperature is learned as well.
      init_residual: `(records, key) -> {site: coefficients}` of what is added to the relaxed cost.
      residual: the function that is added, or None.
    """

    learner: Learner
    eta: Any
    learn_temperature: bool
    init_residual: Callable[[Records, PRNGKey], Coefficients] | None = None
    residual: Residual | None = None

    def init(self, records: Records, key: PRNGKey) -> ControlState:
        """The coefficients to start from."""
        # An array for each site: a buffer that is shared cannot be donated.
        eta = {site: jnp.array(self.eta, jnp.float32) for site in records}
        coefficients: Coefficients = {"eta": eta}
        if self.learn_temperature:
            coefficients["log_factor"] = jnp.zeros((), jnp.float32)
        if self.init_residual is not None:
            coefficients["residual"] = self.init_residual(records, key)
        return self.learner.init(coefficients)

    def score(
        self,
        coefficients: Coefficients,
        logits: dict[str, Array],
        passes: dict[int, Relaxed],
        temperature: Temperature,
        drawn: Pass,
        keys: dict[str, PRNGKey],
    ) -> Float[Array, ""]:
        """The sum over costs whose gradient in the logits is the estimate.

        All but the logits are constants. With `n(l)` the noise given the samples, a variable adds

            (f - eta c - r) log q(z; l) - (eta dc/du + dr/du) . n(l)
        """
        cost, terms = jax.lax.stop_gradient(drawn.cost), []
        for site, record in drawn.records.items():
            at, eta, relaxed = (
                record._replace(logits=logits[site]),
                coefficients["eta"][site],
                passes[record.layer],
            )
            log_q = at.log_prob()
            noise = _noise(keys[site], at)
            slopes = eta.astype(wide_dtype(relaxed.slopes[site])) * relaxed.slopes[site]
            if self.residual is not None:
                own = coefficients["residual"][site]
                fixed = record._replace(logits=jax.lax.stop_gradient(record.logits))
                at_site = temperature_of(site, temperature)
                value, slope = self.residual(own, fixed, jax.lax.stop_gradient(noise), at_site)
                value = value.reshape(value.shape + (1,) * (log_q.ndim - value.ndim))
                value, slope = value.astype(log_q.dtype), slope.astype(slopes.dtype)
                terms.append(-drawn.sum(log_q * value))
                slopes += slope
            terms.append(drawn.sum(log_q) * (cost - eta.astype(cost.dtype) * relaxed.cost))
            terms.append(-drawn.sum(noise * slopes))
        return jnp.sum(total(terms))


def estimator(family: Families, control: RelaxedControl) -> Estimator:
    """The score function with this control variate."""

    def init(objective: Objective, params: Params, batch: Batch, key: PRNGKey) -> ControlState:
        return control.init(layout(objective, params, batch, key, family).records, key)

    def surrogate(
        objective: Objective,
        params: Params,
        batch: Batch,
        key: PRNGKey,
        temperature: Temperature,
        state: ControlState,
    ) -> tuple[Float[Array, ""], tuple[State, Info]]:
        drawn = trace(objective, params, batch, key, family, hard_draw)
        check_sites(temperature, drawn)
        temperature = _scalars(temperature)
        keys = noise_keys(key, drawn.records)
        coefficients = state.coefficients
        factor = jnp.exp(coefficients.get("log_factor", jnp.zeros((), jnp.float32)))

        def times_factor(temperature: Any) -> Float[Array, ""]:
            wide = jax.lax.stop_gradient(upcast(temperature))
            return wide * factor.astype(wide.dtype)

        scaled = jax.tree.map(times_factor, temperature)

        def relaxed(temperature: Temperature) -> dict[int, Relaxed]:
            arguments = (objective, params, batch, key, family)
            return relaxed_passes(*arguments, drawn, keys, temperature)

        passes, pullback = jax.vjp(relaxed, scaled)
        passes = jax.lax.stop_gradient(passes)

        def squared(
            coefficients: Coefficients, passes: dict[int, Relaxed], temperature: Temperature
        ) -> Float[Array, ""]:
            def score(coefficients: Coefficients, logits: dict[str, Array]) -> Float[Array, ""]:
                return control.score(coefficients, logits, passes, temperature, drawn, keys)

            return squared_estimate(score, coefficients, logits, drawn.cost.size)

        logits = {site: record.logits for site, record in drawn.records.items()}
        loss, (slope, by_pass, direct) = jax.value_and_grad(squared, argnums=(0, 1, 2))(
            coefficients, passes, scaled
        )
        # The pass back for the temperature is dead code where nothing asks for its result.
        by_temperature = jax.tree.map(jnp.add, pullback(by_pass)[0], direct)
        by_temperature = zero_where_not_finite(by_temperature)
        pull = jax.tree.map(lambda g, t: g * t, by_temperature, scaled)
        if control.learn_temperature:
            slope["log_factor"] += jnp.asarray(sum(jax.tree.leaves(pull)), factor.dtype)
        score = control.score(coefficients, logits, passes, scaled, drawn, keys)
        value = jnp.mean(drawn.cost) + without_value(score / drawn.cost.size)
        for leaf, g in zip(
            jax.tree.leaves(temperature), jax.tree.leaves(by_temperature), strict=True
        ):
            pulled = without_value(jax.lax.stop_gradient(g * factor.astype(g.dtype)) * upcast(leaf))
            value += pulled.astype(value.dtype)
        eta = jnp.mean(jnp.stack(list(coefficients["eta"].values())))
        metrics = {"squared_estimate": loss, "eta": eta, "temperature_factor": factor}
        next_state = control.learner.step(state, jax.lax.stop_gradient(slope))
        info = Info(drawn.cost, jax.lax.stop_gradient(metrics), drawn.aux)
        return value, (next_state, info)

    return Estimator(init, surrogate)


def noise_keys(key: PRNGKey, records: Records) -> dict[str, PRNGKey]:
    """A key for each site's noise, different from all that `trace` derives from `key`."""
    own = spare_key(key)
    return {site: jax.random.fold_in(own, index) for index, site in enumerate(records)}


def _noise(key: PRNGKey, record: Record) -> Sample:
    """The noise of a relaxed sample given the discrete one.

    Where masked, the noise is not conditioned: a mask may depend on samples of earlier layers, and
    in their relaxed pass the noise of this site must not.
    """
    z = record.z
    if record.where is not None:
        key, free_key = jax.random.split(key)
        free = record.family.sample(free_key, record.logits)
        z = jnp.where(value_mask(record.where, record.family), z, free)
    return record.family.conditional_noise(key, record.logits, z)


def relaxed_passes(
    objective: Objective,
    params: Params,
    batch: Batch,
    key: PRNGKey,
    family: Families,
    drawn: Pass,
    keys: dict[str, PRNGKey],
    temperature: Temperature,
) -> dict[int, Relaxed]:
    """For each layer the pass with discrete samples below it, and relaxed ones from there on."""
    records = drawn.records
    noise = {site: _noise(keys[site], record) for site, record in records.items()}
    noise = jax.lax.stop_gradient(noise)

    def one(layer: int) -> Relaxed:
        def draw(site: Site, _key: PRNGKey) -> Sample:
            if records[site.name].layer < layer:
                return site.given
            return site.family.soften(
                site.logits, site.given, temperature_of(site.name, temperature)
            )

        def summed(own: Noise) -> tuple[Float[Array, ""], Cost]:
            values = {site: r.z if r.layer < layer else noise[site] for site, r in records.items()}
            arguments = (objective, jax.lax.stop_gradient(params), batch, key, family, draw)
            cost = trace(*arguments, given=values | own, like=records).cost
            return jnp.sum(cost), cost

        own = {site: noise[site] for site, record in records.items() if record.layer == layer}
        slopes, cost = jax.grad(summed, has_aux=True)(own)
        # A relaxed value that underflows to 0 has a derivative of 0 in its noise, not the NaN of 0
        # times the infinite derivative of a square root or a norm.
        return Relaxed(cost, zero_where_not_finite(slopes))

    return {layer: one(layer) for layer in dict.fromkeys(r.layer for r in records.values())}


def _scalars(temperature: Temperature) -> Temperature:
    """The temperature, checked; a mapping as a dict, which is a pytree."""
    if isinstance(temperature, Mapping):
        temperature = dict(temperature)
    for leaf in jax.tree.leaves(temperature):
        check_temperature(leaf)
        if jnp.ndim(leaf):
            raise ValueError(
                f"temperature has shape {jnp.shape(leaf)}: give a scalar, or a mapping from sites "
                "to scalars"
            )
    return temperature
