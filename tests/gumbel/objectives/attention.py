"""Hard attention that looks at one item after another, and decides when to stop.

After Xu, Ba, Kiros et al. (2015), with the stopping gate of Graves (2016).
"""

import jax
import jax.numpy as jnp

from tests.gumbel.objectives.case import Case


def objective(params, batch, key, sample):
    """The squared error of the state at the end, and a price for every look."""
    items = batch["items"]  # [B, L, D]
    batch_size, _, width = items.shape

    def look(carry, _):
        state, going = carry  # [B, D], [B]
        scores = jnp.einsum("bld,bd->bl", items @ params["key"], jnp.tanh(state) + 1)
        going_on = (going > 0)[:, None]  # who has stopped draws no more, and has no more score
        item = sample("item", scores[:, None], family="categorical", where=going_on)[:, 0]
        state += going[:, None] * jnp.einsum("bl,bld->bd", item, items)
        stop = sample("stop", state @ params["stop"][:, None], family="bernoulli", where=going_on)
        return (state, going * (1 - stop[:, 0])), going

    start = jnp.zeros((batch_size, width)), jnp.ones(batch_size)
    (state, _), looks = sample.scan(look, start, length=2)
    error = jnp.sum((state @ params["out"] - batch["target"]) ** 2, axis=-1)
    return error + 0.1 * looks.sum(axis=0)


def case() -> Case:
    """Three items, two looks: (3 * 2)^2 joint values."""
    keys = jax.random.split(jax.random.key(1), 5)
    params = {
        "key": jax.random.normal(keys[0], (2, 2)),
        "stop": jax.random.normal(keys[1], (2,)),
        "out": jax.random.normal(keys[2], (2, 2)),
    }
    batch = {
        "items": jax.random.normal(keys[3], (2, 3, 2)),
        "target": jax.random.normal(keys[4], (2, 2)),
    }
    return Case(objective, params, batch, None)  # each call names its family
