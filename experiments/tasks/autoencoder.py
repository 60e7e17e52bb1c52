"""Discrete autoencoding: an image as a few codes from one codebook of many, as in a VQ-VAE."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from experiments.data import Split
from experiments.errors import refuse
from experiments.settings import COUNT, NOT_NEGATIVE, Choice, Settings, setting
from experiments.tasks.base import Images, Metrics, Pictures, Task, check_layers
from experiments.tasks.layers import KLS, Constant, PixelLikelihood, check_kl, kl_per_example
from gumbel import CATEGORICAL, Family, samplers
from gumbel.types import Batch, Cost, PRNGKey, Sample, Sampler


@dataclasses.dataclass(frozen=True)
class Options:
    """The task's own settings."""

    embedding: int = setting(16, COUNT)  # dimensions of a code
    hidden: int = setting(128, COUNT)  # units of the hidden layers of encoder and decoder
    kl_weight: float = setting(1.0, NOT_NEGATIVE, dynamic=True)  # of the KL term, in training
    kl: str = setting("analytic", Choice(KLS))


class Autoencoder(nnx.Module):
    """D categorical variables of K values, each a code from a codebook that they share.

        q(z_d = k | x) from logits e_d(x) . c_k,    p(z) uniform,    p(x | c_z) Bernoulli

    The cost is `-log p(x | c_z) + kl_weight KL`. A hard sample looks its code up; a relaxed one
    gives a mixture of codes.

    Args:
      pixel_mean: mean image of the training split, `[H, W]`.
      num_variables: D.
      num_classes: K.
      options: options of the task.
      rngs: random streams for the weights.
    """

    def __init__(
        self,
        pixel_mean: Float[Array, "H W"],
        num_variables: int,
        num_classes: int,
        options: Options,
        *,
        rngs: nnx.Rngs,
    ):
        self.family: Family = CATEGORICAL
        self.image_shape, self.kl = tuple(pixel_mean.shape), options.kl
        self.event = (num_variables, num_classes)
        flat, width = pixel_mean.ravel(), num_variables * options.embedding
        self.pixel_mean = Constant(flat)
        self.inner = nnx.Linear(flat.size, options.hidden, rngs=rngs)
        self.encoder = nnx.Linear(options.hidden, width, rngs=rngs)
        codes = jax.random.normal(rngs.params(), (num_classes, options.embedding))
        self.codebook = nnx.Param(codes / math.sqrt(options.embedding))
        self.decoder = nnx.Linear(width, options.hidden, rngs=rngs)
        self.likelihood = PixelLikelihood(options.hidden, flat, rngs=rngs)

    def batch(self, images: Images) -> Batch:
        """The pixels, flat."""
        return images.reshape(images.shape[0], -1)

    def cost(
        self,
        batch: Batch,
        key: PRNGKey,
        sample: Sampler,
        *,
        temperature: Any,
        hard: bool,
        kl_weight: Any = 1.0,
    ) -> Cost:
        """`-log p(x | c_z)` and the weighted KL; if `hard`, the negative log importance weight."""
        logits = self.logits(batch)
        z = sample("z", logits)
        kind = "sample" if hard else self.kl
        prior = jnp.zeros(self.event[1])
        kl = kl_per_example(self.family, kind, logits, prior, z, temperature)
        return self.likelihood.cost(self._decode(z), batch) + kl_weight * kl

    def logits(self, pixels: Float[Array, "B P"]) -> Float[Array, "B D K"]:
        """The logits of q(z | x)."""
        hidden = jax.nn.relu(self.inner(pixels - self.pixel_mean[...]))
        embedded = self.encoder(hidden).reshape(pixels.shape[0], self.event[0], -1)
        return embedded @ self.codebook[...].T

    def codes(self, images: Images) -> Int[Array, "B D"]:
        """The most probable code of each variable."""
        return jnp.argmax(self.logits(self.batch(images)), axis=-1)

    def pictures(self, images: Images, key: PRNGKey) -> Pictures:
        """The digits, their reconstructions from the most probable codes, and random codes."""
        z = jax.nn.one_hot(self.codes(images), self.event[1])
        prior = jnp.zeros((images.shape[0], *self.event))
        pictures = {"digit": images, "reconstruction": self._shown(z)}
        pictures["random codes"] = self._shown(samplers.hard(key, self.family)("z", prior))
        return pictures

    def _shown(self, z: Sample) -> Images:
        return self.likelihood.mean(self._decode(z)).reshape(-1, *self.image_shape)

    def _decode(self, z: Sample) -> Float[Array, "B H"]:
        embedded = (z @ self.codebook[...]).reshape(z.shape[0], -1)
        return jax.nn.relu(self.decoder(embedded))


def check(settings: Settings) -> None:
    """Checks that there is one layer of categorical variables, and that the KL can be used."""
    if settings.latent != "categorical":
        refuse("latent", settings.latent, "codes are categorical")
    check_layers(settings, 1)
    check_kl(settings.options.kl, settings.estimator.spec)


def build(settings: Settings, pixel_mean: Float[Array, "H W"], key: PRNGKey) -> Autoencoder:
    """The autoencoder of the settings, with fresh parameters."""
    [number] = settings.num_variables
    return Autoencoder(
        pixel_mean, number, settings.num_classes, settings.options, rngs=nnx.Rngs(key)
    )


def usage(codes: Int[np.ndarray, "N D"], _split: Split) -> dict[str, Any]:
    """How many codes of the book the split uses, and the perplexity of their frequencies.

    Example:
      >>> usage(np.array([[0, 3], [3, 0]]), None)
      {'codes_used': 2, 'perplexity': 2.0}
    """
    counts = np.unique(codes, return_counts=True)[1]
    shares = counts / counts.sum()
    perplexity = round(float(np.exp(-np.sum(shares * np.log(shares)))), 6)
    return {"codes_used": len(counts), "perplexity": perplexity}


TASK = Task(
    build,
    options=Options,
    check=check,
    unread=lambda settings: {"standardize": f"task={settings.task} has none"},
    annealed=lambda _settings, dynamic, _step: {"kl_weight": dynamic["kl_weight"]},
    metrics=Metrics(
        lambda model, images: model.codes(images), usage, {"codes_used": "", "perplexity": "codes"}
    ),
)
