"""Gradient estimators for discrete latent variables, in JAX.

The package has relaxations, families of discrete variables, gradient estimators, temperature
schedules, and exact enumeration. All are pure functions; there is no configuration and no
dependency on a neural network library.

Example, a gradient through a categorical variable:

  >>> import jax, jax.numpy as jnp, gumbel
  >>> def objective(params, batch, key, sample):  # costs in nats, one per example
  ...     z = sample("z", params["logits"] + batch)
  ...     return jnp.sum(z * jnp.array([3.0, 1.0, 2.0]), axis=(-2, -1))
  >>> params, batch = {"logits": jnp.zeros((1, 3))}, jnp.zeros((64, 1, 3))
  >>> estimator = gumbel.estimators.make("gumbel_softmax", gumbel.CATEGORICAL)
  >>> key = jax.random.key(0)
  >>> state = estimator.init(objective, params, batch, key)
  >>> gradient, (state, info) = jax.grad(estimator.surrogate, argnums=1, has_aux=True)(
  ...     objective, params, batch, key, 0.5, state
  ... )
  >>> int(gradient["logits"].argmin())  # the cheapest value has the most negative gradient
  1
"""

from gumbel import adaptation, estimators, exact, lab, samplers, schedules
from gumbel.checks import check_objective
from gumbel.conditional import conditional_binary_concrete, conditional_gumbel_softmax
from gumbel.densities import (
    binary_concrete_log_prob,
    exp_gumbel_softmax_log_prob,
    gumbel_softmax_log_prob,
    logit_binary_concrete_log_prob,
)
from gumbel.estimators import Estimator, Info
from gumbel.families import BERNOULLI, CATEGORICAL, Family, family
from gumbel.noise import gumbel_noise, logistic_noise
from gumbel.relaxations import (
    binary_concrete,
    exp_gumbel_softmax,
    gumbel_max,
    gumbel_softmax,
    logit_binary_concrete,
    straight_through,
)
from gumbel.subsets import gumbel_top_k, ordered_log_prob, relaxed_top_k
from gumbel.types import Objective, Sampler
from gumbel.unimix import binary_unimix, unimix

__all__ = [
    "BERNOULLI",
    "CATEGORICAL",
    "Estimator",
    "Family",
    "Info",
    "Objective",
    "Sampler",
    "adaptation",
    "binary_concrete",
    "binary_concrete_log_prob",
    "binary_unimix",
    "check_objective",
    "conditional_binary_concrete",
    "conditional_gumbel_softmax",
    "estimators",
    "exact",
    "exp_gumbel_softmax",
    "exp_gumbel_softmax_log_prob",
    "family",
    "gumbel_max",
    "gumbel_noise",
    "gumbel_softmax",
    "gumbel_softmax_log_prob",
    "gumbel_top_k",
    "lab",
    "logistic_noise",
    "logit_binary_concrete",
    "logit_binary_concrete_log_prob",
    "ordered_log_prob",
    "relaxed_top_k",
    "samplers",
    "schedules",
    "straight_through",
    "unimix",
]
