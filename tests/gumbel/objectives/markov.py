"""A hidden Markov model with an amortized posterior, in plain JAX.

The cost is a negative log weight, `-log p(x, z) + log q(z)`, which is what VIMCO needs.
"""

import jax
import jax.numpy as jnp

from gumbel import CATEGORICAL
from tests.gumbel.objectives.case import Case


def objective(params, batch, key, sample):
    """The negative log weight of each sequence."""
    batch_size, num_states = batch.shape[0], params["means"].shape[0]

    def step(previous, x):
        logits = x[:, None] * params["posterior"] + previous @ params["memory"]
        state = sample("state", logits)  # [B, K]
        log_q = CATEGORICAL.log_prob(logits, state)
        log_p = CATEGORICAL.log_prob(previous @ params["transition"], state)
        log_p -= 0.5 * (x - state @ params["means"]) ** 2
        return state, log_q - log_p

    start = jnp.zeros((batch_size, num_states))
    _, costs = sample.scan(step, start, batch.T)
    return costs.sum(axis=0)


def case() -> Case:
    """Three steps of two states: 2^3 joint values."""
    keys = jax.random.split(jax.random.key(7), 4)
    params = {
        "posterior": jax.random.normal(keys[0], (2,)),
        "memory": jax.random.normal(keys[1], (2, 2)),
        "transition": jax.random.normal(keys[2], (2, 2)),
        "means": jnp.array([-1.0, 2.0]),
    }
    return Case(objective, params, jax.random.normal(keys[3], (2, 3)), CATEGORICAL)
