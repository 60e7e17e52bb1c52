"""Derivatives of surrogates: of any order for score functions, refused beyond the first for others.

The score-function surrogates multiply what depends on samples by the magic box of their log
probability (Foerster et al. 2018). Where a baseline `b` does not depend on the sample `z_l`,
`(magic_box(log q_l) - 1) b` has expectation 0 whatever the parameters: subtracting it
usually lowers the variance of the derivatives, and biases none of them (Mao et al. 2019).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_jvp
def magic_box(log_prob: Float[Array, "..."]) -> Float[Array, "..."]:
    """1, whose derivatives of any order are those of `exp(log_prob - stop_gradient(log_prob))`.

    Source: Foerster, Farquhar, Al-Shedivat, Rocktäschel, Xing and Whiteson (2018), DiCE.

    Example:
      >>> float(jax.grad(jax.grad(lambda x: magic_box(3 * x)))(0.5))
      9.0
    """
    return jnp.ones_like(log_prob)


@magic_box.defjvp
def _magic_box_jvp(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
    box = magic_box(*primals)
    return box, box * tangents[0]


def without_value(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """0, with the derivatives of `x`, which is finite.

    Example:
      >>> value, slope = jax.value_and_grad(lambda x: without_value(x**2))(3.0)
      >>> float(value), float(slope)
      (0.0, 6.0)
    """
    return x - jax.lax.stop_gradient(x)


def first_derivative_only(value: Float[Array, ""], estimator: str) -> Float[Array, ""]:
    """`value`, whose second derivative raises a ValueError that names `estimator`.

    Example:
      >>> f = lambda x: first_derivative_only(x**2, "st")
      >>> float(jax.grad(f)(1.0))
      2.0
    """

    @jax.custom_jvp
    def one(x: Any) -> Any:
        return jnp.ones_like(x)

    @one.defjvp
    def one_jvp(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
        raise ValueError(
            f"{estimator!r} estimates a first derivative only: for a second one use 'sf', 'rloo', "
            "or 'muprop'"
        )

    @jax.custom_jvp
    def identity(x: Any) -> Any:
        return x

    @identity.defjvp
    def identity_jvp(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
        [x], [tangent] = primals, tangents
        return x, one(x) * tangent

    return identity(value)
