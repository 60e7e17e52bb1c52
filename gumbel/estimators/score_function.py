"""The score function and what is built on it with a baseline that does not look at the sample."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from gumbel import samplers
from gumbel.estimators.base import Estimator, Info, State, Temperature, register
from gumbel.estimators.signal import Normalizer, SignalState
from gumbel.families import Family
from gumbel.types import Batch, Cost, Objective, Params, PRNGKey


@register("sf", unbiased=True)
def sf(
    family: Family,
    *,
    centering: bool = False,
    variance_normalization: bool = False,
    decay: float = 0.99,
) -> Estimator:
    """The score function, or REINFORCE.

        grad E[f(z)] = E[f(z) grad log q(z) + grad f(z)]

    Args:
      family: of the sites.
      centering: subtract a moving average of `f`; unbiased all the same.
      variance_normalization: divide by `max(1, sigma)`, sigma^2 a moving average of the variance
        of `f`; this scales the estimate.
      decay: of the moving averages.

    Source: Williams (1992); Jang, Gu and Poole (2017), section 3.2.
    """
    normalizer = Normalizer.make(centering, variance_normalization, decay)

    def init(objective: Objective, params: Params, batch: Batch, key: PRNGKey) -> SignalState:
        cost, _ = samplers.trace(objective, params, batch, key, samplers.hard_draw(family))
        return normalizer.init(cost)

    def surrogate(
        objective: Objective,
        params: Params,
        batch: Batch,
        key: PRNGKey,
        temperature: Temperature,
        state: SignalState,
    ) -> tuple[Float[Array, ""], tuple[State, Info]]:
        cost, records = samplers.trace(objective, params, batch, key, samplers.hard_draw(family))
        signal, state = normalizer(state, cost)
        value = jnp.mean(cost + signal * samplers.log_prob(family, records))
        return value, (state, Info(cost, {"signal_scale": jnp.std(signal)}))

    return Estimator(init, surrogate)


class NVILState(NamedTuple):
    """The moving averages, the baseline network's parameters and its optimizer's state."""

    signal: SignalState
    baseline: dict[str, Float[Array, "..."]]
    optimizer: optax.OptState


Features = Callable[[Batch], Float[Array, "B F"]]


def flat_features(batch: Batch) -> Float[Array, "B F"]:
    """All arrays of a batch, flattened and joined to one feature vector per example.

    Raises:
      ValueError: the batch has no arrays, or one that is not numbers with an axis of examples.
    """
    leaves = jax.tree.leaves(batch)
    kinds = [jnp.result_type(leaf) for leaf in leaves]
    numbers = [any(jnp.issubdtype(kind, t) for t in (jnp.number, jnp.bool_)) for kind in kinds]
    if not leaves or not all(numbers) or not all(map(jnp.ndim, leaves)):
        raise ValueError(
            "nvil's baseline sees all of the batch, which has to be arrays of numbers, the first"
            " axis for examples: give features=, a function of the batch to [B, F]"
        )
    return jax.vmap(lambda example: ravel_pytree(example)[0].astype(jnp.float32))(batch)


@register("nvil", unbiased=True)
def nvil(
    family: Family,
    *,
    centering: bool = True,
    variance_normalization: bool = False,
    decay: float = 0.99,
    baseline_hidden: int = 100,
    baseline_learning_rate: float = 1e-3,
    features: Features = flat_features,
) -> Estimator:
    """NVIL: the score function with a centred signal and an input-dependent baseline.

        signal = (f(z) - c - C(x)) / max(1, sigma)

    divided only with `variance_normalization`. `c` is a moving average of `f`; `C` a network of one
    hidden layer, fitted to `f - c` by least squares; the baselines do not look at `z`, so the
    estimate stays unbiased.

    Args:
      family: of the sites.
      centering: subtract `c`.
      variance_normalization: divide by `max(1, sigma)`, sigma^2 a moving average of the variance
        of the centred signal; this scales the estimate.
      decay: of the moving averages.
      baseline_hidden: units of the baseline's hidden layer.
      baseline_learning_rate: of its Adam optimizer, whose state is part of the estimator's.
      features: `batch -> [B, F]`, what the baseline sees: anything but the samples.

    Source: Mnih and Gregor (2014), sections 2.2 and 2.3.
    """
    normalizer = Normalizer.make(centering, variance_normalization, decay)
    optimizer = optax.adam(baseline_learning_rate)

    def init(objective: Objective, params: Params, batch: Batch, key: PRNGKey) -> NVILState:
        cost_key, weight_key = jax.random.split(key)
        cost, _ = samplers.trace(objective, params, batch, cost_key, samplers.hard_draw(family))
        num_features = features(batch).shape[-1]
        scale = 1.0 / jnp.sqrt(num_features)
        baseline = {
            "w1": scale * jax.random.normal(weight_key, (num_features, baseline_hidden)),
            "b1": jnp.zeros(baseline_hidden),
            "w2": jnp.zeros(baseline_hidden),
            "b2": jnp.zeros(()),
        }
        return NVILState(normalizer.init(cost), baseline, optimizer.init(baseline))

    def surrogate(
        objective: Objective,
        params: Params,
        batch: Batch,
        key: PRNGKey,
        temperature: Temperature,
        state: NVILState,
    ) -> tuple[Float[Array, ""], tuple[State, Info]]:
        cost, records = samplers.trace(objective, params, batch, key, samplers.hard_draw(family))
        inputs = features(batch)
        target = normalizer.centre(state.signal, cost)

        def baseline_loss(
            baseline: dict[str, Float[Array, "..."]],
        ) -> tuple[Float[Array, ""], Cost]:
            residual = target - _baseline(baseline, inputs)
            return jnp.mean(jnp.square(residual)), residual

        (loss, residual), gradient = jax.value_and_grad(baseline_loss, has_aux=True)(state.baseline)
        signal = jax.lax.stop_gradient(normalizer.scale(state.signal, residual))
        value = jnp.mean(cost + signal * samplers.log_prob(family, records))

        updates, optimizer_state = optimizer.update(gradient, state.optimizer)
        next_state = NVILState(
            SignalState(
                mean=normalizer.update(state.signal, cost).mean,
                variance=normalizer.update(state.signal, residual).variance,
            ),
            optax.apply_updates(state.baseline, updates),
            optimizer_state,
        )
        info = Info(cost, {"signal_scale": jnp.std(signal), "baseline_loss": loss})
        return value, (next_state, info)

    return Estimator(init, surrogate)


def _baseline(
    baseline: dict[str, Float[Array, "..."]], inputs: Float[Array, "B F"]
) -> Float[Array, " B"]:
    hidden = jnp.tanh(inputs @ baseline["w1"] + baseline["b1"])
    return hidden @ baseline["w2"] + baseline["b2"]
