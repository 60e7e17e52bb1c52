"""The temperature of a step: a schedule's, or one that is learned by its squared gradient error."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from experiments.settings import Temperature
from experiments.tasks.base import Dynamic
from gumbel import Family, Objective, estimators, schedules
from gumbel.adaptation import squared_error_slope
from gumbel.types import Batch, Params, PRNGKey

Raw = Float[Array, ""]  # of a learned temperature: log(temperature - floor)


class Adaptation(NamedTuple):
    """What learning the temperature carries from step to step.

    Attributes:
      optimizer: Adam's moments of the slope.
      reference: the state of the unbiased estimator.
    """

    optimizer: optax.OptState
    reference: estimators.State


class Step(NamedTuple):
    """What the temperature of one step is judged by.

    Attributes:
      estimator: the one that reads the temperature.
      state: state of the estimator.
      objective_at: the training objective at a temperature.
      hard: the objective of discrete samples.
      params, batch, key: those of the step.
    """

    estimator: estimators.Estimator
    state: estimators.State
    objective_at: Callable[[Any], Objective]
    hard: Objective
    params: Params
    batch: Batch
    key: PRNGKey


def at(
    temperature: Temperature,
    num_steps: int,
    dynamic: Dynamic,
    step: Int[Array, ""],
    raw: Raw,
) -> Float[Array, ""]:
    """The temperature of a step: the schedule's, or `floor + exp(raw)` where it is learned.

    Args:
      temperature: names the schedule.
      num_steps: steps of the run; a schedule may take a share of them.
      dynamic: the numbers of the schedule.
      step: counted from 0.
      raw: the learned parameter.
    """
    value, floor = dynamic["temperature.value"], dynamic["temperature.floor"]
    interval, name = dynamic["temperature.interval"], temperature.name
    if name == "learned":
        return floor + jnp.exp(raw)
    if name == "constant":
        return schedules.constant(value)(step)
    if name == "exponential":
        rate = dynamic["temperature.rate"]
        return schedules.exponential(rate, floor, value=value, interval=interval)(step)
    over = {"linear": schedules.linear, "cosine": schedules.cosine}[name]
    length = max(1, round(temperature.share * num_steps))
    return over(value, floor, length, interval=interval)(step)


def init(
    family: Family, hard: Objective, params: Params, batch: Batch, key: PRNGKey, raw: Raw
) -> Adaptation:
    """The state before the first step."""
    return Adaptation(_adam().init(raw), _reference(family).init(hard, params, batch, key))


def adapt(
    family: Family, dynamic: Dynamic, raw: Raw, state: Adaptation, step: Step
) -> tuple[Raw, Adaptation]:
    """A step of Adam down the squared error of the gradient estimate.

    The halves of the batch give two independent estimates. Each has twice the variance of the whole
    batch, so `average_over` is doubled.
    """
    halves, keys = _halves(step.batch), jax.random.split(step.key, (2, 2))
    reference = _reference(family)

    def unbiased(half: Batch, key: PRNGKey) -> tuple[Params, estimators.State]:
        gradient, (after, _) = jax.grad(reference.surrogate, argnums=1, has_aux=True)(
            step.hard, step.params, half, key, 1.0, state.reference
        )
        return gradient, after

    def estimates(temperature: Any) -> Params:
        def one(half: Batch, key: PRNGKey) -> Params:
            gradient, _ = jax.grad(step.estimator.surrogate, argnums=1, has_aux=True)(
                step.objective_at(temperature), step.params, half, key, temperature, step.state
            )
            return gradient

        return jax.vmap(one)(halves, keys[0])

    references, states = jax.vmap(unbiased)(halves, keys[1])
    temperature = dynamic["temperature.floor"] + jnp.exp(raw)
    slope = squared_error_slope(
        estimates, references, temperature, average_over=2 * dynamic["temperature.average_over"]
    )
    # In the parameter, not in the log temperature; a gradient may have a wider dtype.
    slope = (slope * jnp.exp(raw) / temperature).astype(raw.dtype)
    updates, optimizer = _adam().update(slope, state.optimizer)
    raw -= dynamic["temperature.learning_rate"] * updates
    return raw, Adaptation(optimizer, jax.tree.map(lambda leaf: leaf[0], states))


def _adam() -> optax.GradientTransformation:
    return optax.scale_by_adam()


def _reference(family: Family) -> estimators.Estimator:
    return estimators.sf(family, centering=True)


def _halves(batch: Batch) -> Batch:
    """The batch with a first axis of its halves; of an odd one the last example is left out."""

    def split(leaf: Array) -> Array:
        half = leaf.shape[0] // 2
        return leaf[: 2 * half].reshape(2, half, *leaf.shape[1:])

    return jax.tree.map(split, batch)
