"""Relaxed samples given their discrete samples.

A discrete sample is `z = one_hot(argmax(logits + noise))`, or `z = (logits + noise > 0)`. The
functions here draw the noise from its conditional distribution given `z`. The joint distribution is
the same as if the noise were drawn first. For a categorical variable, the exponentials
`e = exp(-noise)` with `p = softmax(logits)` are

    e_k = p_k E + (1 - z_k) E_k,    E, E_1..E_K ~ Exponential(1)

This is a race with rates `p`: the time `E` of the first arrival does not depend on which value
arrives first, and exponentials are memoryless. The noise is differentiable in the logits, for given
`z`, `E` and `E_k`.

Source: Maddison, Tarlow and Minka (2014), A* sampling; Tucker, Mnih, Maddison, Lawson and
Sohl-Dickstein (2017), REBAR; Paulus, Maddison and Krause (2021), Gumbel-Rao.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from gumbel.arguments import categorical_logits, check_key, check_point, floating
from gumbel.noise import exponential, gumbel_noise, logistic_noise
from gumbel.numerics import CERTAIN, softplus, upcast
from gumbel.relaxations import soft_bernoulli, soft_categorical
from gumbel.types import PRNGKey


def conditional_gumbel_noise(
    key: PRNGKey, logits: Float[Array, "*batch K"], z: Float[Array, "*batch K"]
) -> Float[Array, "*batch K"]:
    """Gumbel noise given that `logits + noise` is largest where `z` is 1.

    Args:
      key: PRNG key.
      logits: unnormalized log probabilities; -inf rules a value out.
      z: one-hot, a value that can occur; no gradient flows to it. Leading axes broadcast.

    Returns:
      Noise of the shape of `z` and `logits`, broadcast, in float32 at least, differentiable in
      `logits`.

    Raises:
      ValueError: K is 0, or `z` does not fit the logits.
      TypeError: `key` is not one PRNG key, or `logits` are not floating-point.

    Example:
      >>> logits, z = jnp.array([0.0, 3.0, 1.0]), jnp.array([1.0, 0.0, 0.0])
      >>> int(jnp.argmax(logits + conditional_gumbel_noise(jax.random.key(0), logits, z)))
      0
    """
    check_key(key)
    logits = categorical_logits(logits)
    check_point(z, logits, event_ndims=1)
    shape = jnp.broadcast_shapes(jnp.shape(z), logits.shape)  # noise of its own for every z
    log_p = jnp.broadcast_to(jax.nn.log_softmax(upcast(logits), axis=-1), shape)
    first_key, others_key = jax.random.split(key)
    first = gumbel_noise(first_key, (*log_p.shape[:-1], 1), log_p.dtype)
    others = exponential(others_key, log_p.shape, log_p.dtype)
    return jnp.where(z > 0.5, first - log_p, -jnp.log(others + jnp.exp(log_p - first)))


def conditional_logistic_noise(
    key: PRNGKey, logits: Float[Array, "..."], z: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Logistic noise given that `logits + noise > 0` where `z` is 1, and nowhere else.

    Args:
      key: PRNG key.
      logits: log odds; +-inf makes a variable constant.
      z: 0 or 1; no gradient flows to it. Axes broadcast.

    Returns:
      Noise of the shape of `z` and `logits`, broadcast, in float32 at least, differentiable in
      `logits`.

    Raises:
      ValueError: `z` does not fit the logits.
      TypeError: `key` is not one PRNG key, or `logits` are not floating-point.

    Example:
      >>> logits, z = jnp.array([2.0, -3.0]), jnp.array([0.0, 1.0])
      >>> (logits + conditional_logistic_noise(jax.random.key(0), logits, z) > 0).tolist()
      [False, True]
    """
    check_key(key)
    logits = floating(logits)
    check_point(z, logits, event_ndims=0)
    wide = jnp.broadcast_to(upcast(logits), jnp.broadcast_shapes(jnp.shape(z), logits.shape))
    finite = jnp.where(jnp.abs(wide) >= CERTAIN, 0, wide)
    sign = jnp.where(z > 0.5, 1, -1).astype(wide.dtype)
    against = -sign * finite  # the log odds of the value that was not drawn
    ratio = logistic_noise(key, wide.shape, wide.dtype)  # log(E_k / E)
    return sign * jnp.logaddexp(against, ratio + softplus(against))


def conditional_gumbel_softmax(
    key: PRNGKey,
    logits: Float[Array, "*batch K"],
    z: Float[Array, "*batch K"],
    temperature: ArrayLike,
) -> Float[Array, "*batch K"]:
    """A `gumbel_softmax` sample given the discrete sample `z` that has the same noise.

    Its largest entry is where `z` is 1. The arguments and errors are those of
    `conditional_gumbel_noise` and `gumbel_softmax`; it is differentiable in `logits` and
    `temperature`.

    Example:
      >>> logits, z = jnp.array([0.0, 3.0, 1.0]), jnp.array([1.0, 0.0, 0.0])
      >>> int(jnp.argmax(conditional_gumbel_softmax(jax.random.key(0), logits, z, 0.5)))
      0
    """
    return soft_categorical(logits, conditional_gumbel_noise(key, logits, z), temperature)


def conditional_binary_concrete(
    key: PRNGKey, logits: Float[Array, "..."], z: Float[Array, "..."], temperature: ArrayLike
) -> Float[Array, "..."]:
    """A `binary_concrete` sample given the discrete sample `z` that has the same noise.

    It is over 1/2 where `z` is 1. The arguments and errors are those of
    `conditional_logistic_noise` and `binary_concrete`; it is differentiable in `logits` and
    `temperature`.

    Example:
      >>> logits, z = jnp.array([2.0, -3.0]), jnp.array([0.0, 1.0])
      >>> (conditional_binary_concrete(jax.random.key(0), logits, z, 0.5) > 0.5).tolist()
      [False, True]
    """
    return soft_bernoulli(logits, conditional_logistic_noise(key, logits, z), temperature)
