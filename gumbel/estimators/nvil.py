"""NVIL: the score function with a baseline network for each layer."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from gumbel.arguments import check_function
from gumbel.estimators.base import Estimator, Info, State, Temperature, register
from gumbel.estimators.control import ControlState, Learner
from gumbel.estimators.derivatives import magic_box
from gumbel.estimators.networks import Network, apply_network, init_network
from gumbel.estimators.options import Range
from gumbel.estimators.signal import DECAY, SCALED, Normalizer, SignalState
from gumbel.numerics import zero_where_not_finite
from gumbel.samplers import Pass, hard_draw, total, trace
from gumbel.sites import Families
from gumbel.tracing import whole
from gumbel.types import Batch, Cost, Objective, Params, PRNGKey

Features: TypeAlias = Callable[[Batch], Float[Array, "B F"]]


class NVILState(NamedTuple):
    """The moving averages, the baselines by layer, and their optimizer's state.

    `unit`, in nats, is the spread of the first batch's cost: a baseline is its network's output
    times that, so a learning rate suits a cost of any size.
    """

    signal: SignalState
    unit: Float[Array, ""]
    baselines: list[Network]
    optimizer: optax.OptState


def flat_features(batch: Batch) -> Float[Array, "B F"]:
    """All arrays of a batch, flattened and joined to one feature vector per example.

    Raises:
      ValueError: the batch has no arrays, or one that is not numbers with an axis of examples.
    """
    leaves = jax.tree.leaves(batch)
    kinds = [leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype for leaf in leaves]
    numbers = [any(jnp.issubdtype(kind, t) for t in (jnp.number, jnp.bool_)) for kind in kinds]
    lengths = {jnp.shape(leaf)[:1] for leaf in leaves}
    if not all(numbers) or len(lengths) != 1 or () in lengths:
        raise ValueError(
            "nvil's baseline sees all of the batch, which has to be arrays of numbers, the first"
            " axis for examples: give features=, a function of the batch to [B, F]"
        )
    # One by one: their dtypes may differ, and 16 bits may not hold the values of another.
    rows = [jax.vmap(jnp.ravel)(whole(leaf, 1)).astype(jnp.float32) for leaf in leaves]
    return jnp.concatenate(rows, axis=1)


@register(
    "nvil",
    unbiased=True,
    derivatives="all",
    ranges={
        "decay": DECAY,
        "baseline_hidden": Range(minimum=1),
        "baseline_learning_rate": Range(minimum=0.0),
    },
    biased_if=[SCALED],
    reads=flat_features,
)
def nvil(
    family: Families,
    *,
    centering: bool = True,
    variance_normalization: bool = False,
    decay: float = 0.99,
    baseline_hidden: int = 200,
    baseline_learning_rate: float = 1e-3,
    baseline_sees_samples: bool = True,
    features: Features = flat_features,
) -> Estimator:
    """NVIL: the score function with a centered signal and a baseline network for each layer.

    Layer `l` has the signal

        (f(z) - c - C_l(x, z_<l)) / max(1, sigma)

    with the division only if `variance_normalization` is on. `c` is a moving average of `f`. `C_l`
    is a network with one hidden layer, fitted to `f - c` (to `f` without `centering`) by least
    squares. It sees the samples of earlier layers but not those of its own layer, so the estimate
    stays unbiased. Coupled examples share the mean of their `C_l`. The sites of one loop count as
    one layer.

    Args:
      family: family of the sites.
      centering: subtract `c`.
      variance_normalization: divide by `max(1, sigma)`, where sigma^2 is a moving average of the
        variance of the numerator, over layers and examples. This scales the score-function part of
        the estimate, which is then biased where `f` depends on the parameters, too.
      decay: decay of the moving averages, in [0, 1).
      baseline_hidden: hidden units of each baseline, at least 1.
      baseline_learning_rate: learning rate of their Adam optimizer, whose state is part of the
        estimator's state.
      baseline_sees_samples: if False, `C_l` sees only `x`; useful if the samples are very wide.
      features: `batch -> [B, F]`, inputs of every baseline, which must not depend on the samples.

    Source: Mnih and Gregor (2014), section 2.3, without local learning signals: the signal of every
    layer has the whole cost.
    """
    check_function(features, "estimator 'nvil': features", "a function of the batch to [B, F]")
    normalizer = Normalizer(centering, variance_normalization, decay)
    learner = Learner(optax.adam(baseline_learning_rate))

    def seen(batch: Batch, drawn: Pass) -> list[Float[Array, "B F"]]:
        """The inputs of each layer's baseline."""
        inputs = features(batch)
        if not isinstance(inputs, jax.Array | np.ndarray):
            raise TypeError(
                f"nvil's features are a {type(inputs).__name__}: give features=, a function of the "
                "batch to an array [B, F]"
            )
        if inputs.ndim != 2 or (not drawn.coupled and inputs.shape[:1] != drawn.cost.shape):
            costs = "is one cost" if drawn.coupled else f"are {drawn.cost.shape[0]} costs"
            raise ValueError(
                f"nvil's features have shape {inputs.shape}, and there {costs}: give features=, a "
                "function of the batch to [B, F]"
            )
        inputs = zero_where_not_finite(inputs)  # missing values, which the objective leaves out
        by_layer: dict[int, Float[Array, "B F"]] = {}
        for record in drawn.records.values():
            by_layer.setdefault(record.layer, inputs)
            # The samples that coupled examples share have no axis of examples.
            if baseline_sees_samples and record.z.shape[:1] == inputs.shape[:1]:
                flat = whole(record.z, 1).reshape(inputs.shape[0], -1).astype(inputs.dtype)
                inputs = jnp.concatenate([inputs, jax.lax.stop_gradient(flat)], axis=1)
        return list(by_layer.values())

    def init(objective: Objective, params: Params, batch: Batch, key: PRNGKey) -> NVILState:
        cost_key, weight_key = jax.random.split(key)
        drawn = trace(objective, params, batch, cost_key, family, hard_draw)
        inputs = seen(batch, drawn)
        keys = jax.random.split(weight_key, len(inputs))
        baselines = [
            init_network(key, layer.shape[-1], baseline_hidden)
            for key, layer in zip(keys, inputs, strict=True)
        ]
        cost = jax.lax.stop_gradient(drawn.cost).astype(jnp.float32)
        spread = jnp.std(cost) if cost.size > 1 else jnp.ones(())
        unit = jnp.where(jnp.isfinite(spread), jnp.maximum(spread, 1e-3), 1)
        return NVILState(normalizer.init(cost), unit, *learner.init(baselines))

    def surrogate(
        objective: Objective,
        params: Params,
        batch: Batch,
        key: PRNGKey,
        temperature: Temperature,
        state: NVILState,
    ) -> tuple[Float[Array, ""], tuple[State, Info]]:
        drawn = trace(objective, params, batch, key, family, hard_draw)
        inputs = seen(batch, drawn)
        target = normalizer.center(state.signal, drawn.cost)
        unit = state.unit.astype(target.dtype)

        def loss_of(baselines: list[Network]) -> tuple[Float[Array, ""], Float[Array, "L *B"]]:
            outputs = [
                unit * apply_network(baseline, layer).astype(unit.dtype)
                for baseline, layer in zip(baselines, inputs, strict=True)
            ]
            values = jnp.stack([jnp.mean(each) if drawn.coupled else each for each in outputs])
            # In units, as the network's outputs are.
            return jnp.mean(jnp.square((target[None] - values) / unit)), values

        (loss, values), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.baselines)
        scale = normalizer.scale(state.signal, drawn.cost)
        average = normalizer.baseline(state.signal, drawn.cost)
        value = drawn.cost + _score(drawn, average, values) / scale

        fitted = learner.step(ControlState(state.baselines, state.optimizer), gradient)
        residual = target[None] - values
        next_state = NVILState(
            normalizer.update(
                state.signal, drawn.cost, spread_of=residual, of_one=drawn.cost.size == 1
            ),
            state.unit,
            *fitted,
        )
        baseline_loss = loss * jnp.square(unit)
        metrics = {"signal_scale": jnp.std(residual) / scale, "baseline_loss": baseline_loss}
        return jnp.mean(value), (next_state, Info(drawn.cost, metrics, drawn.aux))

    return Estimator(init, surrogate)


def _score(drawn: Pass, average: Float[Array, ""], baselines: Float[Array, "L *B"]) -> Cost:
    """0, with the derivatives of the score-function part.

    With `D` the magic box: `(D(q) - 1) (f - c) - sum_l D(q_<l) (D(q_l) - 1) C_l`, whose last terms
    have expectation 0 whatever the parameters.
    """
    log_q = list(drawn.log_prob_by_layer().values())
    controlled = (magic_box(total(log_q)) - 1) * (drawn.cost - average)
    below = jnp.zeros_like(log_q[0])
    for own, baseline in zip(log_q, jax.lax.stop_gradient(baselines), strict=True):
        controlled -= magic_box(below) * (magic_box(own) - 1) * baseline
        below = below + own
    return controlled
