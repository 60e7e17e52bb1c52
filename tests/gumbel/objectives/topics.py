"""A topic that the whole batch shares, and binary variables in loops within loops.

The shared variable has no batch axis, so the cost is a scalar.
"""

import jax
import jax.numpy as jnp

from gumbel import BERNOULLI, CATEGORICAL
from tests.gumbel.objectives.case import Case


def objective(params, batch, key, sample):
    """The mean over documents of the squared error, after two sentences of two words."""
    topic = sample("topic", params["topics"])  # [K]
    documents = jnp.transpose(batch, (1, 2, 0))  # [B, S, W] -> [S, W, B]

    def word(state, x):
        on_topic = sample("on_topic", params["word"] * x + state)  # [B]
        return jnp.tanh(state + on_topic * (topic @ params["effects"])), None

    def sentence(state, xs):
        state, _ = sample.scan(word, state, xs)
        return 0.5 * state, state

    _, states = sample.scan(sentence, jnp.zeros(batch.shape[0]), documents)
    return jnp.mean(jnp.sum((states - 0.3) ** 2, axis=0))


def case() -> Case:
    """Two documents of two sentences of two words: 3 * 2^8 joint values."""
    params = {
        "topics": jnp.array([0.2, -0.3, 0.5]),
        "effects": jnp.array([1.0, -1.0, 0.5]),
        "word": jnp.array(0.8),
    }
    batch = jax.random.normal(jax.random.key(9), (2, 2, 2))
    return Case(objective, params, batch, {"topic": CATEGORICAL, "on_topic": BERNOULLI})
