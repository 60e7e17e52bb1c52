"""A text decoder that samples token after token from a large vocabulary."""

import jax
import jax.numpy as jnp

from gumbel import CATEGORICAL
from tests.gumbel.objectives.case import Case

VOCABULARY, WIDTH, NUM_TOKENS = 10_000, 4, 3


def objective(params, batch, key, sample):
    """The squared distance of the text's embedding from the target's."""

    def write(state, _):
        logits = state @ params["embedding"].T  # [B, K]
        token = sample("token", logits)
        state = jnp.tanh(state @ params["recurrent"] + token @ params["embedding"])
        return state, None

    state, _ = sample.scan(write, batch["prompt"], length=NUM_TOKENS)
    return jnp.sum((state - batch["target"]) ** 2, axis=-1)


def case() -> Case:
    """Two texts of three tokens."""
    keys = jax.random.split(jax.random.key(6), 4)
    params = {
        "embedding": jax.random.normal(keys[0], (VOCABULARY, WIDTH)),
        "recurrent": jax.random.normal(keys[1], (WIDTH, WIDTH)),
    }
    batch = {
        "prompt": jax.random.normal(keys[2], (2, WIDTH)),
        "target": jax.random.normal(keys[3], (2, WIDTH)),
    }
    return Case(
        objective,
        params,
        batch,
        CATEGORICAL,
        refused={
            "marginalization": r"needs about 10\^12 joint values \(token: 10000\^3\), over max_val"
        },
        enumerable=False,
    )
