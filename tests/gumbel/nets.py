"""Small two-layer nets, one of each family, whose exact gradient can be enumerated."""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gumbel import BERNOULLI, CATEGORICAL, Family, Objective
from gumbel.types import Batch, Params, PRNGKey, Sampler


class Net(NamedTuple):
    """An objective with everything that a test needs to call it.

    A net is equal to itself alone, so that what is computed from it can be cached.
    """

    family: Family
    objective: Objective
    params: Params
    batch: Batch

    __hash__ = object.__hash__
    __eq__ = object.__eq__
    __ne__ = object.__ne__


@cache
def two_layer(family: Family, *, batch_size: int = 2) -> Net:
    """Input 3, two stochastic layers of 2 variables (K = 3 if categorical), a cost of size 1.

    The cost is `-log p(y | h2)` for binary targets `y`, smooth and not quadratic in `h2`.
    """
    event = (2,) if family is BERNOULLI else (2, 3)
    width = 2 if family is BERNOULLI else 6
    keys = jax.random.split(jax.random.key(7), 5)

    def weights(key: PRNGKey, rows: int, columns: int) -> Float[Array, "..."]:
        return jax.random.normal(key, (rows, columns))

    params = {
        "w1": weights(keys[0], 3, width),
        "w2": weights(keys[1], width, width),
        "w3": 2.0 * weights(keys[2], width, 4),
    }
    batch = {
        "x": jax.random.normal(keys[3], (batch_size, 3)),
        "y": jax.random.bernoulli(keys[4], 0.5, (batch_size, 4)).astype(jnp.float32),
    }

    def objective(
        params: Params, batch: Batch, key: PRNGKey, sample: Sampler
    ) -> Float[Array, " B"]:
        hidden = batch["x"]
        for site, weight in (("h1", "w1"), ("h2", "w2")):
            logits = (hidden @ params[weight]).reshape(-1, *event)
            hidden = sample(site, logits).reshape(-1, width)
        logits = hidden @ params["w3"]
        return -BERNOULLI.log_prob(logits, batch["y"]).sum(axis=-1)

    return Net(family, objective, params, batch)


def toy(target: float, *, num_copies: int = 1) -> Net:
    """`E[(b - target)^2]` of one Bernoulli variable, the toy of the control-variate papers.

    REBAR's has the target 0.45, RELAX's 0.499. The optimum is 0 at any target below 1/2, and the
    nearer to 1/2 the target is, the smaller is the gradient beside the variance of its estimates.
    The batch is that many independent copies.
    """

    def objective(
        params: Params, batch: Batch, key: PRNGKey, sample: Sampler
    ) -> Float[Array, " B"]:
        b = sample("b", params + batch)[:, 0]
        return jnp.square(b - target)

    return Net(BERNOULLI, objective, jnp.zeros(1), jnp.zeros((num_copies, 1)))


FAMILIES = (BERNOULLI, CATEGORICAL)
