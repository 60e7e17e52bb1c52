"""RELAX: REBAR with a network added to its control variate."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gumbel.estimators import relaxed_control
from gumbel.estimators.base import Estimator, register
from gumbel.estimators.control import RANGES, learner
from gumbel.estimators.networks import Network, apply_network, init_network
from gumbel.estimators.options import Range
from gumbel.samplers import Record, Records
from gumbel.sites import Families, value_mask
from gumbel.types import PRNGKey, Sample


@register(
    "relax",
    unbiased=True,
    relaxes=True,
    smooth=True,
    passes="(1 + L) + (1 + L)",
    ranges={**RANGES, "residual_hidden": Range(minimum=1)},
)
def relax(
    family: Families,
    *,
    eta: float = 1.0,
    residual_hidden: int = 50,
    learn_temperature: bool = True,
    control_optimizer: str = "adam",
    control_learning_rate: float = 0.01,
) -> Estimator:
    """RELAX: the score function, with the relaxed cost plus a network as control variate.

        c = eta f(y) + r(y, p),    y = softmax((l + u) / temperature),    p = softmax(l)

    replaces `eta f(y)` in `rebar`, with sigmoids for Bernoulli variables. Each site has a network
    `r` with one hidden layer. Its inputs are the relaxed sample and the mean of one example (and
    one step, in a loop), so it needs no pass through the model. It starts at 0 and is learned by
    the gradient of the squared estimate, like `eta` and the temperature. The estimate has no second
    derivative. As for `rebar`, the cost must be continuous in the relaxed samples.

    Args:
      family: family of the sites.
      eta: initial value of the coefficients.
      residual_hidden: hidden units of `r`, at least 1.
      learn_temperature: learn a factor that multiplies the temperature passed to the surrogate.
      control_optimizer: optimizer of coefficients and networks: `adam`, `rmsprop` or `sgd`.
      control_learning_rate: learning rate of that optimizer; 0 keeps the coefficients constant, and
        `r` at 0.

    Source: Grathwohl, Choi, Wu, Roeder and Duvenaud (2018).
    """

    def init_residual(records: Records, key: PRNGKey) -> dict[str, Network]:
        networks = {}
        for index, (site, record) in enumerate(records.items()):
            size = 2 * math.prod(record.logits.shape[_leading(record) :])
            networks[site] = init_network(jax.random.fold_in(key, index), size, residual_hidden)
        return networks

    fitted = learner(control_optimizer, control_learning_rate)
    control = relaxed_control.RelaxedControl(
        fitted, eta, learn_temperature, init_residual, _residual
    )
    return relaxed_control.estimator(family, control)


def _leading(record: Record) -> int:
    """How many leading axes of the logits are those of examples and of the steps of loops."""
    return record.lead + len(record.loops)


def _residual(
    network: Network, record: Record, noise: Sample, temperature: Any
) -> tuple[Float[Array, "..."], Sample]:
    """`r` of each example and step, and its derivative in the noise."""
    shape, leading = record.logits.shape, _leading(record)
    flat = (*shape[:leading], math.prod(shape[leading:]))

    def summed(noise: Sample) -> tuple[Float[Array, ""], Float[Array, "..."]]:
        relaxed = record.family.soften(record.logits, noise, temperature)
        if record.where is not None:
            relaxed = jnp.where(value_mask(record.where, record.family), relaxed, 0)
        seen = [value.reshape(flat) for value in (relaxed, record.mean())]
        value = apply_network(network, jnp.concatenate(seen, axis=-1))
        return jnp.sum(value), value

    slope, value = jax.grad(summed, has_aux=True)(noise)
    return value, slope
