"""Section 4.3: Kingma's M2, a generative model with a class, sometimes observed, and a style."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from experiments.models.base import (
    KL,
    Constant,
    Images,
    Labels,
    Pictures,
    kl_per_example,
    pixel_logits,
)
from gumbel import BERNOULLI, CATEGORICAL, Family, samplers
from gumbel.types import Batch, Cost, PRNGKey, Sample, Sampler

Maps = Float[Array, "B H W C"]
Features = Float[Array, "B F"]
Classes = Float[Array, "B K"]
Style = Float[Array, "B S"]

# Of layers with ReLU above; and of the last one, small: where the style is mostly noise to the
# decoder at first, training drops it, and the bound stays at that of ten class means for long.
_KERNEL = nnx.initializers.he_normal()
_SMALL_KERNEL = nnx.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")
_LOG_SCALE = -2.0  # of the style, at the start


class SemiSupervised(nnx.Module):
    """A class y and a Gaussian style z, from which convolutions draw the image.

        p(y) = 1/K,  p(z) = N(0, 1),  p(x | y, z) Bernoulli,  q(y | x),  q(z | x, y) Gaussian

    An unlabelled image costs the negative bound, in which y is the site `y` of the objective, so
    any estimator serves it; a labelled one that with y observed, and its cross-entropy besides:

        E_q(y|x)[ L(x, y) ] + KL(q(y | x) || p(y)),
        bound_weight (L(x, y) - log p(y)) - label_weight log q(y | x),

        L(x, y) = E_q(z|x,y)[ -log p(x | y, z) ] + beta KL(q(z | x, y) || p(z)).

    It is a bound at beta = 1, where training ends. A larger beta (Higgins et al., 2017) makes the
    style dear and leaves it to the class to say which digit it is.

    The class joins q(z | x, y) after its convolutions, so that a sum over classes repeats only what
    depends on them.

    Args:
      pixel_mean: `[H, W]`, of the training split; H and W are multiples of 4.
      num_classes: K.
      style_dim: S, the dimensions of z.
      encoder: channels of the three convolutions of q(y | x), and of q(z | x, y), each of which
        halves the image.
      decoder: channels of the first three layers of p(x | y, z), of which the last doubles the
        image, as does the fourth layer.
      head: units of the layer where class and image meet in q(z | x, y).
      kl: of y, in training: `analytic`, or one of a sample's, as in the VAE; that of z is at the
        draw, too, if this is `sample`.
      rngs: for the weights.
    """

    def __init__(
        self,
        pixel_mean: Float[Array, "H W"],
        *,
        num_classes: int,
        style_dim: int,
        encoder: tuple[int, int, int],
        decoder: tuple[int, int, int],
        head: int,
        kl: KL,
        rngs: nnx.Rngs,
    ):
        self.family: Family = CATEGORICAL
        self.num_classes, self.style_dim = num_classes, style_dim
        self.kl = kl
        shape = (pixel_mean.shape[0], pixel_mean.shape[1])
        self.pixel_mean = Constant(pixel_mean)
        self.class_encoder = Encoder(shape, encoder, rngs=rngs)
        self.class_head = nnx.Linear(self.class_encoder.num_features, num_classes, rngs=rngs)
        self.style_encoder = Encoder(shape, encoder, rngs=rngs)
        self.style_from_image = nnx.Linear(
            self.style_encoder.num_features, head, kernel_init=_KERNEL, rngs=rngs
        )
        self.style_from_class = nnx.Linear(num_classes, head, use_bias=False, rngs=rngs)
        self.style_head = nnx.Linear(head, 2 * style_dim, rngs=rngs)
        self.decoder = Decoder(num_classes + style_dim, shape, decoder, rngs=rngs)
        self.pixel_bias = nnx.Param(pixel_logits(pixel_mean))

    def batch(self, images: Images) -> Batch:
        """The images as they are."""
        return images

    def cost(
        self,
        batch: Batch,
        key: PRNGKey,
        sample: Sampler,
        *,
        temperature: Any,
        hard: bool,
        style_beta: Any = 1.0,
    ) -> Cost:
        """The cost of an unlabelled image; if `hard`, the negative log importance weight."""
        kind = "sample" if hard else self.kl
        at_draw = kind == "sample"
        logits, y, cost = self._joint(batch, key, sample, at_draw=at_draw, style_beta=style_beta)
        prior = jnp.zeros_like(logits)
        return cost + kl_per_example(self.family, kind, logits, prior, y, temperature)

    def labelled_cost(
        self,
        images: Images,
        labels: Labels,
        key: PRNGKey,
        *,
        bound_weight: Any,
        label_weight: Any,
        style_beta: Any = 1.0,
    ) -> Cost:
        """The cost of a labelled image."""
        observed = jax.nn.one_hot(labels, self.num_classes, dtype=images.dtype)[:, None]
        sample = samplers.observe({"y": observed}, samplers.mean_field(self.family))
        logits, y, cost = self._joint(images, key, sample, at_draw=False, style_beta=style_beta)
        log_q = samplers.sum_per_example(self.family.log_prob(logits, y))
        bound = cost + math.log(self.num_classes)
        return bound_weight * bound - label_weight * log_q

    def class_logits(self, images: Images) -> Classes:
        """The logits of q(y | x)."""
        return self.class_head(self.class_encoder(images - self.pixel_mean[...]))

    def pictures(self, images: Images, key: PRNGKey) -> Pictures:
        """Analogies: each row has an image and its style in every class."""
        y = jax.nn.one_hot(jnp.argmax(self.class_logits(images), axis=-1), self.num_classes)
        mean, _ = self._style(images, y)

        def drawn(one_hot: Float[Array, " K"]) -> Images:
            return jax.nn.sigmoid(self._decode(jnp.broadcast_to(one_hot, y.shape), mean))

        columns = jax.vmap(drawn, out_axes=1)(jnp.eye(self.num_classes))
        rows = jnp.concatenate([images[:, None], columns], axis=1)
        return {f"style {index + 1}": row for index, row in enumerate(rows)}

    def _joint(
        self, images: Images, key: PRNGKey, sample: Sampler, *, at_draw: bool, style_beta: Any
    ) -> tuple[Float[Array, "B 1 K"], Sample, Cost]:
        """The logits of y, what `sample` makes of them, and `L(x, y)` at one draw of the style.

        If `at_draw`, the KL of the style is that at the draw, too.
        """
        logits = self.class_logits(images)[:, None]
        y = sample("y", logits)
        mean, log_scale = self._style(images, y[:, 0])
        noise = jax.random.normal(key, mean.shape, mean.dtype)
        z = mean + jnp.exp(log_scale) * noise
        if at_draw:  # log q(z) - log p(z)
            kl = 0.5 * (jnp.square(z) - jnp.square(noise)) - log_scale
        else:
            kl = 0.5 * (jnp.square(mean) + jnp.exp(2 * log_scale) - 1) - log_scale
        log_likelihood = BERNOULLI.log_prob(self._decode(y[:, 0], z), images)
        cost = style_beta * samplers.sum_per_example(kl) - samplers.sum_per_example(log_likelihood)
        return logits, y, cost

    def _style(self, images: Images, y: Classes) -> tuple[Style, Style]:
        """The mean and the log of the scale of q(z | x, y)."""
        from_image = self.style_from_image(self.style_encoder(images - self.pixel_mean[...]))
        hidden = jax.nn.relu(from_image + self.style_from_class(y))
        mean, log_scale = jnp.split(self.style_head(hidden), 2, axis=-1)
        return mean, log_scale + _LOG_SCALE

    def _decode(self, y: Classes, z: Style) -> Images:
        """The logits of p(x | y, z)."""
        return self.decoder(jnp.concatenate([y, z], axis=-1)) + self.pixel_bias[...]


class Encoder(nnx.Module):
    """Three convolutions with ReLU, each of which halves the image; the maps as a flat vector.

    Args:
      shape: of the images.
      channels: of the layers.
      rngs: for the weights.
    """

    def __init__(self, shape: tuple[int, int], channels: tuple[int, ...], *, rngs: nnx.Rngs):
        self.layers = nnx.List(
            nnx.Conv(below, above, (3, 3), strides=2, kernel_init=_KERNEL, rngs=rngs)
            for below, above in zip((1, *channels), channels, strict=False)
        )
        halved = [-(-size // 2 ** len(channels)) for size in shape]
        self.num_features = math.prod(halved) * channels[-1]

    def __call__(self, images: Images) -> Features:
        """Features of images less their mean."""
        maps = images[..., None]
        for layer in self.layers:
            maps = jax.nn.relu(layer(maps))
        return maps.reshape(maps.shape[0], -1)


class Decoder(nnx.Module):
    """Four transposed convolutions: from a vector to maps of a quarter of the image's size, and up.

    Those that double the size are sub-pixel convolutions (Shi et al., 2016): at stride 1 to four
    times the channels, which depth-to-space then lays out. It is the same family of maps as a
    transposed convolution of stride 2, and an order of magnitude faster on a CPU.

    Args:
      num_inputs: of the vector.
      shape: of the images, in multiples of 4.
      channels: of the first three layers.
      rngs: for the weights.
    """

    def __init__(
        self, num_inputs: int, shape: tuple[int, int], channels: tuple[int, ...], *, rngs: nnx.Rngs
    ):
        first, second, third = channels
        self.start = (shape[0] // 4, shape[1] // 4, first)
        self.linear = nnx.Linear(num_inputs, math.prod(self.start), kernel_init=_KERNEL, rngs=rngs)
        self.same = nnx.Conv(first, second, (3, 3), kernel_init=_KERNEL, rngs=rngs)
        self.double = nnx.Conv(second, 4 * third, (3, 3), kernel_init=_KERNEL, rngs=rngs)
        self.last = nnx.Conv(third, 4, (3, 3), kernel_init=_SMALL_KERNEL, rngs=rngs)

    def __call__(self, vector: Float[Array, "B I"]) -> Images:
        """Maps of one channel."""
        maps = jax.nn.relu(self.linear(vector)).reshape(-1, *self.start)
        maps = jax.nn.relu(self.same(maps))
        maps = jax.nn.relu(depth_to_space(self.double(maps)))
        return depth_to_space(self.last(maps))[..., 0]


def depth_to_space(maps: Maps) -> Maps:
    """Twice the height and width from a quarter of the channels.

    Example:
      >>> depth_to_space(jnp.arange(4.0).reshape(1, 1, 1, 4))[0, ..., 0].tolist()
      [[0.0, 1.0], [2.0, 3.0]]
    """
    batch, height, width, channels = maps.shape
    blocks = maps.reshape(batch, height, width, 2, 2, channels // 4)
    return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, channels // 4)
