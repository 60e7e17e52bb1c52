"""A criterion that can choose the temperature of a relaxing estimator.

The relaxed objective cannot: a soft sample carries more than a discrete one, so the gradient of the
relaxed cost in the temperature mostly points upward, to costs that no discrete sample has. What a
temperature is for is the gradient of the discrete objective, and how well it serves that can be
measured against an unbiased estimate.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

Scalar: TypeAlias = Float[Array, ""] | float
# Two independent estimates of a gradient, along a first axis.
Pair: TypeAlias = PyTree[Float[Array, "2 ..."]]


def squared_error_slope(
    estimates: Callable[[Scalar], Pair],
    references: Pair,
    temperature: Scalar,
    *,
    average_over: Scalar = 10.0,
    spread: float = 0.1,
) -> Float[Array, ""]:
    """How the squared error of the mean of `n` gradient estimates changes with the temperature.

        d/dlog(tau) [ |E g(tau) - grad L|^2 + Var g(tau) / n ],    Var g = E |g|^2 - |E g|^2

    An optimizer averages over steps, so it minds bias more than noise: with momentum `m`, about
    `n = 1 / (1 - m)`. Descending the slope finds the temperature that balances the two. The first
    term is estimated by products of independent estimates, and without `|grad L|^2`, which does
    not depend on the temperature. The slope is a central difference at common random numbers,
    which asks nothing of the estimator's second derivatives.

    Args:
      estimates: two independent estimates at a temperature, with the same noise at each.
      references: two unbiased estimates of the gradient `grad L`, each independent of the other
        pair's opposite: `references[1]` of `estimates[0]`, and the other way around.
      temperature: positive.
      average_over: `n`, at least 1. 1 gives the squared error of a single estimate; infinity the
        squared bias.
      spread: half the difference of log temperatures.

    Returns:
      A noisy slope; its expectation is that above, to second order in `spread`.

    Example:
      An estimate with bias `tau` and variance `1 / tau^2` has least squared error at `tau = 1`:

      >>> noise = jax.random.normal(jax.random.key(0), (2, 100_000))
      >>> def estimates(tau):
      ...     return tau + noise / tau  # of a gradient that is 0
      >>> @jax.jit
      ... def slope(tau):
      ...     draws = jax.vmap(
      ...         lambda i: squared_error_slope(
      ...             lambda t: estimates(t)[:, i], jnp.zeros(2), tau, average_over=1
      ...         )
      ...     )(jnp.arange(100_000))
      ...     return draws.mean()
      >>> [round(float(slope(tau))) for tau in (0.4, 1.0, 2.5)]
      [-12, 0, 12]
    """

    def error(pair: Pair) -> Float[Array, ""]:
        squares = (_dot(pair, 0, pair, 0) + _dot(pair, 1, pair, 1)) / 2
        product = _dot(pair, 0, pair, 1)
        agreement = _dot(pair, 0, references, 1) + _dot(pair, 1, references, 0)
        return product + (squares - product) / average_over - agreement

    factor = jnp.exp(spread)
    higher, lower = estimates(temperature * factor), estimates(temperature / factor)
    return (error(higher) - error(lower)) / (2 * spread)


def _dot(one: Pair, i: int, other: Pair, j: int) -> Float[Array, ""]:
    products = jax.tree.map(lambda a, b: jnp.vdot(a[i], b[j]), one, other)
    return sum(jax.tree.leaves(products), jnp.zeros(()))
