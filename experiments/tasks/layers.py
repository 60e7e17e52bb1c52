"""The parts that the tasks' models share."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from experiments.data import Dataset
from experiments.errors import UserError, refuse
from experiments.tasks.base import Images
from gumbel import BERNOULLI, Family, estimators, samplers
from gumbel.types import Cost, Sample

Pixels = Float[Array, "B P"]
Maps = Float[Array, "B H W C"]
KLS = ("sample", "analytic", "relaxed")

# For layers before a ReLU; and, small, for a decoder's last layer: if a continuous code is mostly
# noise to the decoder at first, training drops it.
KERNEL = nnx.initializers.he_normal()
SMALL_KERNEL = nnx.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")


def check_kl(kl: str, spec: estimators.Spec) -> None:
    """Checks that with the estimator's samples the KL term gives a bound, or a log weight."""
    if kl == "relaxed" and spec.derivatives != "relaxed":
        refuse("kl", kl, f"estimator {spec.name!r} draws discrete samples; use sample or analytic")
    if kl == "analytic" and spec.multi_sample:
        refuse("kl", kl, f"{spec.name} needs the log weight of each sample; use sample")


class Constant(nnx.Variable[Array]):
    """An array of the model that is not trained."""


class PixelLikelihood(nnx.Module):
    """Independent Bernoulli pixels, whose logits are a linear function of the layer below.

    Args:
      num_inputs: width of the layer below.
      pixel_mean: mean of the training split, `[P]`; the biases start at its logits.
      rngs: random streams for the weights.
    """

    def __init__(self, num_inputs: int, pixel_mean: Float[Array, " P"], *, rngs: nnx.Rngs):
        self.linear = nnx.Linear(
            num_inputs,
            pixel_mean.shape[0],
            bias_init=lambda *_: pixel_logits(pixel_mean),
            rngs=rngs,
        )

    def cost(self, hidden: Float[Array, "B H"], pixels: Pixels) -> Cost:
        """`-log p(pixels | hidden)`, in nats."""
        return -jnp.sum(BERNOULLI.log_prob(self.linear(hidden), pixels), axis=-1)

    def mean(self, hidden: Float[Array, "B H"]) -> Pixels:
        """The probability that each pixel is on."""
        return jax.nn.sigmoid(self.linear(hidden))


def pixel_logits(pixel_mean: Float[Array, "..."]) -> Float[Array, "..."]:
    """The log odds of pixels, for biases to start at; finite where pixels are always off or on."""
    mean = jnp.clip(pixel_mean, 0.01, 0.99)
    return jnp.log(mean) - jnp.log1p(-mean)


def kl_per_example(
    family: Family,
    kl: str,
    logits: Float[Array, "B *event"],
    prior: Float[Array, "B *event"],
    z: Sample,
    temperature: Any,
) -> Cost:
    """The KL term of a site's variables, of one of three kinds.

    * `sample`, the paper's: `log q(z) - log p(z)`, both discrete log-probabilities taken at the
      sample, relaxed or not. A bound only for discrete samples.
    * `analytic`: `KL(q || p)` of the discrete distributions.
    * `relaxed`: `log q_tau(z) - log p_tau(z)`, the densities of the relaxed distributions at one
      temperature (Maddison et al., 2017). A bound for relaxed samples.
    """
    if kl == "analytic":
        per_variable = family.kl(logits, prior)
    elif kl == "relaxed":
        per_variable = family.relaxed_log_prob(logits, z, temperature) - family.relaxed_log_prob(
            prior, z, temperature
        )
    else:
        per_variable = family.log_prob(logits, z) - family.log_prob(prior, z)
    return samplers.sum_per_example(per_variable)


def event_shape(family: Family, num_variables: int, num_classes: int) -> tuple[int, ...]:
    """The shape of one site's logits per example: `(D,)` or `(D, K)`."""
    return (num_variables, num_classes) if family.event_ndims else (num_variables,)


def layer_input(family: Family, z: Sample, *, standardize: bool) -> Float[Array, "B H"]:
    """Samples as the flat input of a layer; if `standardize`, with mean 0 and variance 1.

        (z - 1/K) / sqrt((1/K) (1 - 1/K)),    K = 2 for Bernoulli variables: 2 z - 1

    The mean and variance are those under uniform logits. Weights and biases can undo this, so the
    model is the same, but the layer above learns faster at the same learning rate.
    """
    if standardize:
        mean = family.uniform_mean(jnp.zeros_like(z))
        z = (z - mean) / jnp.sqrt(mean * (1 - mean))
    return z.reshape(z.shape[0], -1)


class Encoder(nnx.Module):
    """Three convolutions with ReLU, each of which halves the image; the maps as a flat vector.

    Args:
      shape: height and width of the images.
      channels: number of channels of each layer.
      rngs: random streams for the weights.
    """

    def __init__(self, shape: tuple[int, int], channels: tuple[int, ...], *, rngs: nnx.Rngs):
        self.layers = nnx.List(
            nnx.Conv(below, above, (3, 3), strides=2, kernel_init=KERNEL, rngs=rngs)
            for below, above in zip((1, *channels), channels, strict=False)
        )
        halved = [-(-size // 2 ** len(channels)) for size in shape]
        self.num_features = math.prod(halved) * channels[-1]

    def __call__(self, images: Images) -> Float[Array, "B F"]:
        """Features of images from which the mean image is subtracted."""
        maps = images[..., None]
        for layer in self.layers:
            maps = jax.nn.relu(layer(maps))
        return maps.reshape(maps.shape[0], -1)


class Decoder(nnx.Module):
    """A linear layer to maps of a quarter of the size, and three convolutions up to the image's.

    The two that double the size are sub-pixel convolutions (Shi et al., 2016): at stride 1 to four
    times the channels, which depth-to-space then lays out. It is the same family of maps as a
    transposed convolution of stride 2, and an order of magnitude faster on a CPU.

    Args:
      num_inputs: size of the vector.
      shape: height and width of the images, multiples of 4.
      channels: number of channels of each of the first three layers.
      rngs: random streams for the weights.
    """

    def __init__(
        self, num_inputs: int, shape: tuple[int, int], channels: tuple[int, ...], *, rngs: nnx.Rngs
    ):
        first, second, third = channels
        self.start = (shape[0] // 4, shape[1] // 4, first)
        self.linear = nnx.Linear(num_inputs, math.prod(self.start), kernel_init=KERNEL, rngs=rngs)
        self.same = nnx.Conv(first, second, (3, 3), kernel_init=KERNEL, rngs=rngs)
        self.double = nnx.Conv(second, 4 * third, (3, 3), kernel_init=KERNEL, rngs=rngs)
        self.last = nnx.Conv(third, 4, (3, 3), kernel_init=SMALL_KERNEL, rngs=rngs)

    def __call__(self, vector: Float[Array, "B I"]) -> Images:
        """Maps of one channel."""
        maps = jax.nn.relu(self.linear(vector)).reshape(-1, *self.start)
        maps = jax.nn.relu(self.same(maps))
        maps = jax.nn.relu(depth_to_space(self.double(maps)))
        return depth_to_space(self.last(maps))[..., 0]


def check_sides(dataset: Dataset) -> Dataset:
    """The dataset, if a `Decoder` can make its images.

    Raises:
      UserError: a side of the images is not a multiple of 4.
    """
    height, width = dataset.train.images.shape[1:]
    if height % 4 or width % 4:
        raise UserError(
            f"config.dataset={dataset.name}: its images have {height} x {width} pixels, and this "
            "task takes sides that are multiples of 4: pad them"
        )
    return dataset


def depth_to_space(maps: Maps) -> Maps:
    """Twice the height and width from a quarter of the channels.

    Example:
      >>> depth_to_space(jnp.arange(4.0).reshape(1, 1, 1, 4))[0, ..., 0].tolist()
      [[0.0, 1.0], [2.0, 3.0]]
    """
    batch, height, width, channels = maps.shape
    blocks = maps.reshape(batch, height, width, 2, 2, channels // 4)
    return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, channels // 4)
