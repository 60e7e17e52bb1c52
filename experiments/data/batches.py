"""Which images a step reads and how their pixels are drawn, given the seed and the step."""

import enum
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from experiments.errors import UserError
from gumbel.types import PRNGKey

_KIND = "threefry2x32"

RawImages = UInt8[Array, "N H W"]
Indices = Int[Array, "steps batch"]


class Purpose(enum.IntEnum):
    """What a key is for. The number is folded into the seed's key, so no two uses share one."""

    INIT = 0
    SHUFFLE = 1
    STEP = 2
    VALIDATION = 3
    FINAL = 4
    PICTURE = 5
    # A task's extra cost: the choice of its images, their order, and the draws of a step.
    EXTRA_CHOICE = 6
    EXTRA_SHUFFLE = 7
    EXTRA_STEP = 8
    TEMPERATURE = 9


def key_for(seed: Int[Array, ""] | int, purpose: Purpose) -> PRNGKey:
    """The key of a purpose under a seed.

    Raises:
      UserError: JAX makes keys whose draws under `vmap` differ from those without. The order of the
        images would depend on how steps are grouped, and a run on those that it trains with.
    """
    options: Any = jax.config
    kind = options.jax_default_prng_impl
    if kind != _KIND:
        raise UserError(
            f"jax_default_prng_impl={kind}: the draws of such keys depend on what is computed "
            f"together; unset JAX_DEFAULT_PRNG_IMPL, or set it to {_KIND}"
        )
    return jax.random.fold_in(jax.random.key(seed), int(purpose))


def batch_indices(
    seed: Int[Array, ""],
    start: Int[Array, ""],
    *,
    num_steps: int,
    size: int,
    batch_size: int,
    purpose: Purpose = Purpose.SHUFFLE,
) -> Indices:
    """The images of steps `start .. start + num_steps - 1`: each epoch is a fresh permutation.

    The last `size % batch_size` images of an epoch's permutation are left out of it. The result
    for a step depends on the seed and the step alone.

    Args:
      seed: seed of the run.
      start: the first step.
      num_steps: number of steps.
      size: number of training images, at least `batch_size`.
      batch_size: images in a step.
      purpose: purpose of the permutations' key.
    """
    per_epoch = size // batch_size
    first_epoch = start // per_epoch
    # A window of n steps touches at most this many epochs, wherever it starts.
    num_epochs = (num_steps + per_epoch - 2) // per_epoch + 1

    def permutation(epoch: Int[Array, ""]) -> Int[Array, " size"]:
        return jax.random.permutation(jax.random.fold_in(key_for(seed, purpose), epoch), size)

    permutations = jax.vmap(permutation)(first_epoch + jnp.arange(num_epochs))
    batches = permutations[:, : per_epoch * batch_size].reshape(-1, batch_size)
    return jax.lax.dynamic_slice_in_dim(batches, start - first_epoch * per_epoch, num_steps)


def pixels(
    images: RawImages, max_value: int, key: PRNGKey, *, dynamic_binarization: bool
) -> Float[Array, "B H W"]:
    """Images with pixels in [0, 1]; by `dynamic_binarization`, gray ones become draws of 0 or 1."""
    scaled = images.astype(jnp.float32) / max_value
    if not dynamic_binarization or max_value == 1:
        return scaled
    return jax.random.bernoulli(key, scaled).astype(jnp.float32)
