"""The score function and what is built on it with a baseline that does not look at the sample."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from gumbel.estimators.base import Estimator, Info, State, Temperature, register
from gumbel.estimators.derivatives import magic_box
from gumbel.estimators.options import Range
from gumbel.estimators.signal import DECAY, Normalizer, SignalState
from gumbel.independence import require_independent
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
      scale: of the score's part.
    """
    baseline = jax.lax.stop_gradient(baseline)
    return drawn.cost + (magic_box(drawn.log_prob()) - 1) * (drawn.cost - baseline) / scale


@register("sf", unbiased=True, derivatives="all", ranges={"decay": DECAY})
def sf(
    family: Families,
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
      decay: of the moving averages, in [0, 1).

    Source: Williams (1992); Jang, Gu and Poole (2017), section 3.2.
    """
    normalizer = Normalizer(centering, variance_normalization, decay)

    def init(objective: Objective, params: Params, batch: Batch, key: PRNGKey) -> SignalState:
        require_independent(objective, params, batch, key, family)
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
        baseline, scale = normalizer.baseline(state), normalizer.scale(state)
        signal = jax.lax.stop_gradient((drawn.cost - baseline) / scale)
        value = jnp.mean(surrogate_cost(drawn, baseline, scale))
        info = Info(drawn.cost, {"signal_scale": jnp.std(signal)}, drawn.aux)
        return value, (normalizer.update(state, drawn.cost), info)

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
    lengths = {jnp.shape(leaf)[:1] for leaf in leaves}
    if not all(numbers) or len(lengths) != 1 or () in lengths:
        raise ValueError(
            "nvil's baseline sees all of the batch, which has to be arrays of numbers, the first"
            " axis for examples: give features=, a function of the batch to [B, F]"
        )
    return jax.vmap(lambda example: ravel_pytree(example)[0].astype(jnp.float32))(batch)


@register(
    "nvil",
    unbiased=True,
    derivatives="all",
    ranges={
        "decay": DECAY,
        "baseline_hidden": Range(minimum=1),
        "baseline_learning_rate": Range(minimum=0.0),
    },
)
def nvil(
    family: Families,
    *,
    centering: bool = True,
    variance_normalization: bool = False,
    decay: float = 0.99,
    baseline_hidden: int = 100,
    baseline_learning_rate: float = 1e-3,
    features: Features = flat_features,
) -> Estimator:
    """NVIL: the score function with a centered signal and an input-dependent baseline.

        signal = (f(z) - c - C(x)) / max(1, sigma)

    divided only with `variance_normalization`. `c` is a moving average of `f`; `C` a network of one
    hidden layer, fitted to `f - c` by least squares; the baselines do not look at `z`, so the
    estimate stays unbiased. Coupled examples share the mean of their `C(x)`.

    Args:
      family: of the sites.
      centering: subtract `c`.
      variance_normalization: divide by `max(1, sigma)`, sigma^2 a moving average of the variance
        of the signal above; this scales the estimate.
      decay: of the moving averages, in [0, 1).
      baseline_hidden: units of the baseline's hidden layer, at least 1.
      baseline_learning_rate: of its Adam optimizer, whose state is part of the estimator's.
      features: `batch -> [B, F]`, what the baseline sees: anything but the samples.

    Source: Mnih and Gregor (2014), sections 2.2 and 2.3.
    """
    normalizer = Normalizer(centering, variance_normalization, decay)
    optimizer = optax.adam(baseline_learning_rate)

    def init(objective: Objective, params: Params, batch: Batch, key: PRNGKey) -> NVILState:
        require_independent(objective, params, batch, key, family)
        cost_key, weight_key = jax.random.split(key)
        cost = trace(objective, params, batch, cost_key, family, hard_draw).cost
        num_features = features(batch).shape[-1]
        scale = num_features**-0.5
        weights = jax.random.normal(weight_key, (num_features, baseline_hidden), jnp.float32)
        baseline = {
            "w1": scale * weights,
            "b1": jnp.zeros(baseline_hidden, jnp.float32),
            "w2": jnp.zeros(baseline_hidden, jnp.float32),
            "b2": jnp.zeros((), jnp.float32),
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
        drawn = trace(objective, params, batch, key, family, hard_draw)
        inputs = features(batch)
        if not drawn.coupled and inputs.shape[:1] != drawn.cost.shape:
            raise ValueError(
                f"nvil's features have shape {inputs.shape}, but there are {drawn.cost.shape[0]} "
                "costs: give features=, a function of the batch to [B, F]"
            )
        target = normalizer.center(state.signal, drawn.cost)

        def baseline_loss(
            baseline: dict[str, Float[Array, "..."]],
        ) -> tuple[Float[Array, ""], Cost]:
            per_example = _baseline(baseline, inputs)
            residual = target - (jnp.mean(per_example) if drawn.coupled else per_example)
            return jnp.mean(jnp.square(residual)), residual

        (loss, residual), gradient = jax.value_and_grad(baseline_loss, has_aux=True)(state.baseline)
        scale = normalizer.scale(state.signal)
        value = jnp.mean(surrogate_cost(drawn, drawn.cost - residual, scale))

        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer's power
            updates, optimizer_state = optimizer.update(gradient, state.optimizer)
        next_state = NVILState(
            normalizer.update(state.signal, drawn.cost, spread_of=residual),
            optax.apply_updates(state.baseline, updates),
            optimizer_state,
        )
        metrics = {"signal_scale": jnp.std(residual / scale), "baseline_loss": loss}
        return value, (next_state, Info(drawn.cost, metrics, drawn.aux))

    return Estimator(init, surrogate)


def _baseline(
    baseline: dict[str, Float[Array, "..."]], inputs: Float[Array, "B F"]
) -> Float[Array, " B"]:
    hidden = jnp.tanh(inputs.astype(jnp.float32) @ baseline["w1"] + baseline["b1"][None])
    return hidden @ baseline["w2"] + baseline["b2"]
