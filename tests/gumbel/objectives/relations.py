"""Neural relational inference: which particles are coupled, inferred anew at every time step.

After Kipf, Fetaya, Wang, Welling and Zemel (2018), and Graber and Schwing (2020).
"""

import jax
import jax.numpy as jnp

from gumbel import CATEGORICAL
from tests.gumbel.objectives.case import Case

FROM, TO = jnp.array([0, 0, 1]), jnp.array([1, 2, 2])  # the pairs of three particles


def objective(params, batch, key, sample):
    """The squared error of a rollout, and the KL of the edges from a uniform prior."""
    positions = jnp.moveaxis(batch, 1, 0)  # [B, T, N] -> [T, B, N]

    def step(x, target):
        distance = x[:, TO] - x[:, FROM]  # [B, E]
        pairs = jnp.stack([distance, distance**2, jnp.ones_like(distance)], axis=-1)
        logits = pairs @ params["edges"]  # [B, E, K]
        edges = sample("edges", logits)
        force = distance * (edges @ params["springs"])
        x = x.at[:, FROM].add(force).at[:, TO].add(-force)
        kl = CATEGORICAL.kl(logits, jnp.zeros_like(logits)).sum(axis=-1)
        return x, jnp.sum((x - target) ** 2, axis=-1) + kl

    _, costs = sample.scan(step, positions[0], positions[1:])
    return costs.sum(axis=0)


def case() -> Case:
    """Three particles, two kinds of edges, two steps: 2^6 joint values."""
    keys = jax.random.split(jax.random.key(0))
    params = {
        "edges": jax.random.normal(keys[0], (3, 2)),
        "springs": jnp.array([0.0, 0.4]),
    }
    return Case(objective, params, jax.random.normal(keys[1], (2, 3, 3)), CATEGORICAL)
