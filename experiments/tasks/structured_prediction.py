"""Structured prediction, section 4.1: the lower half of a digit from the upper half."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from experiments.settings import Settings
from experiments.tasks.base import Images, Pictures, Task, check_layers
from experiments.tasks.layers import Constant, PixelLikelihood, event_shape, layer_input
from gumbel import Family, samplers
from gumbel.types import Batch, Cost, PRNGKey, Sampler


class SBN(nnx.Module):
    """Stochastic layers between the upper half of an image and the pixels of the lower half.

        h_0 = upper,    h_l ~ q(h | W_l h_{l-1} + b_l),    lower ~ Bernoulli(W h_L + b)

    The cost is `-log p(lower | h)`. The paper's is 392-200-200-392 with Bernoulli layers, or
    392-(20x10)-(20x10)-392 with categorical ones.

    Args:
      pixel_mean: mean image of the training split, `[H, W]`.
      family: family of the stochastic layers.
      layers: the number of variables in each layer.
      num_classes: number of values of each variable, if categorical.
      standardize: subtract the mean from the pixels, and standardize samples; see `layer_input`.
      rngs: random streams for the weights.
    """

    def __init__(
        self,
        pixel_mean: Float[Array, "H W"],
        family: Family,
        *,
        layers: tuple[int, ...],
        num_classes: int,
        standardize: bool,
        rngs: nnx.Rngs,
    ):
        self.family = family
        self.standardize = standardize
        self.image_shape = tuple(pixel_mean.shape)
        upper, lower = self._halves(pixel_mean[None])
        self.upper_mean = Constant(upper[0])
        self.events = tuple(event_shape(family, width, num_classes) for width in layers)
        widths = [upper.shape[1], *(math.prod(event) for event in self.events)]
        self.hidden = nnx.List(
            nnx.Linear(below, above, rngs=rngs) for below, above in itertools.pairwise(widths)
        )
        self.likelihood = PixelLikelihood(widths[-1], lower[0], rngs=rngs)

    def batch(self, images: Images) -> Batch:
        """The upper and the lower half, flat."""
        upper, lower = self._halves(images)
        return {"upper": upper, "lower": lower}

    def cost(
        self, batch: Batch, key: PRNGKey, sample: Sampler, *, temperature: Any, hard: bool
    ) -> Cost:
        """`-log p(lower | h)` at one sample of the hidden layers; `hard` or not."""
        return self.likelihood.cost(self._top(batch["upper"], sample), batch["lower"])

    def pictures(self, images: Images, key: PRNGKey) -> Pictures:
        """The digits, and three completions of each from its upper half."""
        upper, _ = self._halves(images)
        pictures = {"digit": images}
        for index, sample_key in enumerate(jax.random.split(key, 3)):
            top = self._top(upper, samplers.hard(sample_key, self.family))
            halves = [upper, self.likelihood.mean(top)]
            completed = jnp.concatenate(halves, axis=1).reshape(-1, *self.image_shape)
            pictures[f"completion {index + 1}"] = completed
        return pictures

    def _top(self, upper: Float[Array, "B P"], sample: Sampler) -> Float[Array, "B H"]:
        hidden = upper - self.upper_mean[...] if self.standardize else upper
        for index, (linear, event) in enumerate(zip(self.hidden, self.events, strict=True)):
            z = sample(f"h{index + 1}", linear(hidden).reshape(-1, *event))
            hidden = layer_input(self.family, z, standardize=self.standardize)
        return hidden

    def _halves(self, images: Images) -> tuple[Float[Array, "B P"], Float[Array, "B Q"]]:
        middle = images.shape[1] // 2
        flat = images.reshape(images.shape[0], -1)
        return flat[:, : middle * images.shape[2]], flat[:, middle * images.shape[2] :]


def build(settings: Settings, pixel_mean: Float[Array, "H W"], key: PRNGKey) -> SBN:
    """The network of the settings, with fresh parameters."""
    return SBN(
        pixel_mean,
        settings.family,
        layers=settings.num_variables,
        num_classes=settings.num_classes,
        standardize=settings.standardize,
        rngs=nnx.Rngs(key),
    )


TASK = Task(build, check=check_layers)
