"""What a run makes of its dynamic hyperparameters, which are arguments of its compiled program."""

from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array

from experiments.settings import Estimator, Settings
from experiments.tasks.base import Dynamic
from gumbel import Family, estimators


def dynamic_of(settings: Settings) -> dict[str, Array]:
    """The dynamic hyperparameters of a run, as arrays."""
    kinds = {int: jnp.int32, float: jnp.float32}
    values = settings.dynamic()
    return {key: jnp.asarray(value, kinds[type(value)]) for key, value in values.items()}


def make_estimator(estimator: Estimator, family: Family, dynamic: Dynamic) -> estimators.Estimator:
    """The estimator of the settings, with the values of its dynamic options."""
    options = {
        option: dynamic.get(f"estimator.{option}", value)
        for option, value in estimator.options.items()
    }
    return estimators.make(estimator.name, family, **options)


def make_optimizer(settings: Settings, dynamic: Dynamic) -> optax.GradientTransformation:
    """The optimizer of the settings, at the dynamic learning rate."""
    rate: Any = dynamic["learning_rate"]
    if settings.learning_rate_schedule == "cosine":
        rate = optax.schedules.cosine_decay_schedule(rate, settings.num_steps)
    if settings.optimizer == "adam":
        return optax.adam(rate)
    return optax.sgd(rate, momentum=dynamic["momentum"])
