"""Small nets of two or three layers, of each family, whose exact gradient can be enumerated."""

from functools import cache
from typing import NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gumbel import BERNOULLI, CATEGORICAL, Family, Objective, exact
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
def stack(family: Family, num_layers: int, *, batch_size: int = 2) -> Net:
    """Input 3, stochastic layers of 2 variables (K = 3 if categorical), a cost of size 1.

    The cost is `-log p(y | h)` of the last layer `h` for binary targets `y`, smooth and not
    quadratic in `h`. The layers are the sites `h1`, `h2`, ..., with the weights `w1`, `w2`, ....
    """
    event = (2,) if family is BERNOULLI else (2, 3)
    width = 2 if family is BERNOULLI else 6
    *keys, x_key, y_key = jax.random.split(jax.random.key(7), num_layers + 3)
    shapes = [(3, width), *[(width, width)] * (num_layers - 1), (width, 4)]
    params = {
        f"w{layer}": jax.random.normal(key, shape)
        for layer, (key, shape) in enumerate(zip(keys, shapes, strict=True), 1)
    }
    last = f"w{num_layers + 1}"
    params[last] = 2.0 * params[last]
    batch = {
        "x": jax.random.normal(x_key, (batch_size, 3)),
        "y": jax.random.bernoulli(y_key, 0.5, (batch_size, 4)).astype(jnp.float32),
    }

    def objective(
        params: Params, batch: Batch, key: PRNGKey, sample: Sampler
    ) -> Float[Array, " B"]:
        hidden = batch["x"]
        for layer in range(1, num_layers + 1):
            logits = (hidden @ params[f"w{layer}"]).reshape(-1, *event)
            hidden = sample(f"h{layer}", logits).reshape(-1, width)
        return -BERNOULLI.log_prob(hidden @ params[last], batch["y"]).sum(axis=-1)

    return Net(family, objective, params, batch)


def two_layer(family: Family, *, batch_size: int = 2) -> Net:
    """`stack` of two layers; the same net for the same arguments."""
    return stack(family, 2, batch_size=batch_size)


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


@cache
def exact_value_and_gradient(net: Net) -> tuple[float, np.ndarray]:
    """The expected cost, averaged over the batch, and its flat gradient, by enumeration."""

    @jax.jit
    def value_and_grad(params: Params) -> tuple[Array, Params]:
        key = jax.random.key(0)  # of the objective's own noise, which these nets do not have
        return exact.value_and_grad(net.objective, params, net.batch, key, net.family)

    value, gradient = value_and_grad(net.params)
    return float(value), np.asarray(jax.flatten_util.ravel_pytree(gradient)[0], np.float64)


def exact_gradient(net: Net) -> np.ndarray:
    """The flat gradient of the expected cost, by enumeration."""
    return exact_value_and_gradient(net)[1]
