"""Binary codes learned by contrast with the other examples of the batch.

Every example is a negative of the others, so the cost is a scalar. After van den Oord, Li and
Vinyals (2018).
"""

import jax
import jax.numpy as jnp

from gumbel import BERNOULLI
from tests.gumbel.objectives.case import Case


def objective(params, batch, key, sample):
    """The cross-entropy of finding each example's own target among all."""
    code = 2 * sample("code", batch["x"] @ params["encoder"]) - 1  # [B, D]
    scores = code @ (batch["y"] @ params["targets"]).T  # [B, B]
    return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(scores, axis=-1)))


def case() -> Case:
    """Three examples of two bits, counted together: 2^6 joint values."""
    keys = jax.random.split(jax.random.key(5), 4)
    params = {
        "encoder": jax.random.normal(keys[0], (2, 2)),
        "targets": jax.random.normal(keys[1], (2, 2)),
    }
    batch = {"x": jax.random.normal(keys[2], (3, 2)), "y": jax.random.normal(keys[3], (3, 2))}
    return Case(objective, params, batch, BERNOULLI)
