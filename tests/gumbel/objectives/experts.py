"""A mixture of experts in Flax Linen: each example goes to two of them, drawn without replacement.

After Shazeer, Mirhoseini, Maziarz et al. (2017).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from gumbel import CATEGORICAL
from tests.gumbel.objectives.case import Case


class MixtureOfExperts(nn.Module):
    """A router, and experts that are linear layers."""

    num_experts: int

    @nn.compact
    def __call__(self, x, sample):
        logits = nn.Dense(self.num_experts, name="router")(x)
        first = sample("first", logits)  # [B, E]
        # A value with a logit of -inf is never drawn.
        second = sample("second", jnp.where(first > 0.5, -jnp.inf, logits))
        outputs = nn.Dense(self.num_experts, name="experts")(x)  # an output for each expert
        return jnp.sum((first + 0.5 * second) * outputs, axis=-1)


MODEL = MixtureOfExperts(num_experts=4)


def objective(params, batch, key, sample):
    """The squared error of each example."""
    return (MODEL.apply(params, batch["x"], sample) - batch["y"]) ** 2


def case() -> Case:
    """Four experts, two of them chosen: 4^2 joint values, four of which are impossible."""
    keys = jax.random.split(jax.random.key(8))
    x = jax.random.normal(keys[0], (2, 3))
    params = MODEL.init(keys[1], x, lambda site, logits: jax.nn.softmax(logits))
    batch = {"x": x, "y": jnp.array([1.0, -1.0])}
    message = "depends on the samples of site 'first', such as a mask, has no derivative in them"
    return Case(objective, params, batch, CATEGORICAL, refused={"rebar": message, "relax": message})
