"""A model of two families: a cluster, and binary features given the cluster."""

import jax
import jax.numpy as jnp

from gumbel import BERNOULLI, CATEGORICAL
from tests.gumbel.objectives.case import Case


def objective(params, batch, key, sample):
    """The negative evidence lower bound, with analytic KLs from the priors."""
    cluster_logits = (batch @ params["cluster"])[:, None]
    cluster = sample("cluster", cluster_logits)
    prior_logits = cluster[:, 0] @ params["prior"]  # [B, D]
    logits = batch @ params["features"] + prior_logits
    features = sample("features", logits)
    mean = features @ params["out"] + cluster[:, 0] @ params["centers"]
    kl = CATEGORICAL.kl(cluster_logits, jnp.zeros_like(cluster_logits)).sum(axis=-1)
    kl += BERNOULLI.kl(logits, prior_logits).sum(axis=-1)
    return 0.5 * jnp.sum((batch - mean) ** 2, axis=-1) + kl


def case() -> Case:
    """Three clusters and two features: 3 * 2^2 joint values."""
    keys = jax.random.split(jax.random.key(3), 6)
    shapes = {"cluster": (2, 3), "prior": (3, 2), "features": (2, 2), "out": (2, 2)}
    shapes["centers"] = (3, 2)
    params = {
        name: jax.random.normal(key, shape)
        for key, (name, shape) in zip(keys[1:], shapes.items(), strict=True)
    }
    return Case(
        objective,
        params,
        jax.random.normal(keys[0], (2, 2)),
        {"cluster": CATEGORICAL, "features": BERNOULLI},
        temperature={"cluster": 0.5, "features": 1.0},
    )
