"""Small networks that an estimator learns: baselines and residuals with one hidden layer."""

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gumbel.numerics import same_rank
from gumbel.types import PRNGKey

Network: TypeAlias = dict[str, Float[Array, "..."]]


def init_network(key: PRNGKey, num_inputs: int, hidden: int) -> Network:
    """A network that is 0 at first, in float32."""
    weights = jax.random.normal(key, (num_inputs, hidden), jnp.float32)
    return {
        "w1": max(num_inputs, 1) ** -0.5 * weights,
        "b1": jnp.zeros(hidden, jnp.float32),
        "w2": jnp.zeros(hidden, jnp.float32),
        "b2": jnp.zeros((), jnp.float32),
    }


def apply_network(network: Network, inputs: Float[Array, "... F"]) -> Float[Array, "..."]:
    """`w2 . tanh(w1 x + b1) + b2`, in the dtype of the network.

    Example:
      >>> network = init_network(jax.random.key(0), 3, hidden=2)
      >>> apply_network(network | {"b2": jnp.float32(5.0)}, jnp.ones((4, 3))).tolist()
      [5.0, 5.0, 5.0, 5.0]
    """
    features = inputs.astype(network["w1"].dtype)
    hidden = jnp.tanh(jnp.add(*same_rank(features @ network["w1"], network["b1"])))
    return hidden @ network["w2"] + network["b2"]
