"""A criterion for choosing the temperature of a relaxing estimator.

The relaxed objective is not suitable: a soft sample carries more information than a discrete one,
so the gradient of the relaxed cost mostly favors higher temperatures, with costs that no discrete
sample can reach. The purpose of the temperature is a good estimate of the gradient of the discrete
objective, and that can be measured with an unbiased estimator.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from gumbel.numerics import upcast

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
    """The slope, in the log temperature, of the squared error of a mean of `n` gradient estimates.

        d/dlog(tau) [ |E g(tau) - grad L|^2 + Var g(tau) / n ],    Var g = E |g|^2 - |E g|^2

    An optimizer averages noise over steps: with momentum `m`, its variance is that of a mean of
    `n = (1 + m) / (1 - m)` estimates. So bias matters more than noise. Descending the slope
    balances the two. The first term is estimated by products of independent estimates, without
    `|grad L|^2`, which does not depend on the temperature. The slope is a central difference with
    common random numbers, so the estimator needs no second derivatives.

    Args:
      estimates: a function of the temperature that returns two independent estimates, with the
        same noise at every temperature.
      references: two unbiased estimates of `grad L`. `references[1]` must be independent of
        `estimates[0]`, and `references[0]` of `estimates[1]`.
      temperature: positive.
      average_over: `n`, at least 1. 1 gives the squared error of a single estimate, infinity the
        squared bias.
      spread: half the difference of the two log temperatures, positive. No argument is checked.

    Returns:
      A noisy slope, whose expectation is the expression above up to second order in `spread`.

    Example:
      An estimate with bias `tau` and variance `1 / tau^2` has the least squared error at `tau = 1`:

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
    # The slope is a difference of such sums, of which 16 bits would leave little.
    products = jax.tree.map(lambda a, b: jnp.vdot(upcast(a[i]), upcast(b[j])), one, other)
    return sum(jax.tree.leaves(products), jnp.zeros(()))
