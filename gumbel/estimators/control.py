"""Control variates that learn: their coefficients follow the gradient of the squared estimate.

The expectation of an estimate does not depend on its control variates' coefficients, so the
coefficients that make its square small on average make its variance small. What is
squared is the gradient in the sites' logits, not in the parameters: small arrays that need no
backward pass through the model.

    coefficients -= rate * d/dcoefficients sum_site |d score / d logits_site|^2

The coefficients used in a step come from earlier steps. Those of the same step would depend on the
samples that they are multiplied with, and bias the estimate.

Source: Tucker, Mnih, Maddison, Lawson and Sohl-Dickstein (2017), REBAR; Grathwohl, Choi, Wu,
Roeder and Duvenaud (2018), RELAX.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from gumbel.estimators.options import Range
from gumbel.numerics import finite_or, upcast, zero_where_not_finite

OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": optax.adam,
    "rmsprop": optax.rmsprop,
    "sgd": optax.sgd,
}
# The ranges of the two options that an estimator with such a control variate has.
RANGES = {
    "control_optimizer": Range(choices=tuple(OPTIMIZERS)),
    "control_learning_rate": Range(minimum=0.0),
}

Coefficients: TypeAlias = PyTree
SiteLogits: TypeAlias = dict[str, Float[Array, "..."]]
Score: TypeAlias = Callable[[Coefficients, SiteLogits], Float[Array, ""]]


class ControlState(NamedTuple):
    """The learned coefficients, and the state of their optimizer."""

    coefficients: Coefficients
    optimizer: optax.OptState


class Learner(NamedTuple):
    """Moves coefficients against the gradient of the squared estimate.

    Attributes:
      optimizer: an optax transformation; `learner` makes it by name.
    """

    optimizer: optax.GradientTransformation

    def init(self, coefficients: Coefficients) -> ControlState:
        """Starts from these coefficients, any pytree of arrays."""
        coefficients = jax.tree.map(jnp.asarray, coefficients)
        return ControlState(coefficients, self.optimizer.init(coefficients))

    def step(self, state: ControlState, gradient: Coefficients) -> ControlState:
        """One step of the optimizer; what is not finite in the gradient counts as 0.

        Otherwise a single infinite cost would spoil the coefficients forever, as would one so
        large that the optimizer's averages overflow: such a step is left out.
        """
        finite = zero_where_not_finite(gradient)
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer's power
            updates, optimizer = self.optimizer.update(finite, state.optimizer, state.coefficients)
        moved = ControlState(optax.apply_updates(state.coefficients, updates), optimizer)
        return finite_or(moved, state)


def learner(optimizer: str, learning_rate: Any) -> Learner:
    """A `Learner` with the optimizer of this name, `adam`, `rmsprop` or `sgd`.

    Example:
      >>> fitted = learner("sgd", 0.1)
      >>> state = fitted.step(fitted.init(1.0), jnp.asarray(-4.0))
      >>> round(float(state.coefficients), 4)
      1.4
    """
    return Learner(OPTIMIZERS[optimizer](learning_rate))


def squared_estimate(
    score: Score, coefficients: Coefficients, logits: SiteLogits, num_costs: int
) -> Float[Array, ""]:
    """`sum_site |d score / d logits_site|^2` per cost: what the coefficients make small.

    Args:
      score: `score(coefficients, logits)`, a sum over costs whose gradient in the logits is the
        estimate. All else in it is a constant, such as the costs.
      coefficients: coefficients of the control variates.
      logits: recorded logits by site; no gradient flows to them.
      num_costs: 1 if examples are coupled, else the number of examples.

    Returns:
      A scalar in float32 at least, differentiable in `coefficients`.
    """
    wide = jax.tree.map(lambda leaf: upcast(jax.lax.stop_gradient(leaf)), logits)
    estimate = jax.grad(score, argnums=1)(coefficients, wide)
    squares = [jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(estimate)]
    return jnp.sum(jnp.stack(squares)) / num_costs
