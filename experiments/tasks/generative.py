"""Generative modeling, section 4.2: a VAE with one layer of discrete latent variables."""

import dataclasses
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from experiments.settings import Choice, Settings, setting
from experiments.tasks.base import WIDTHS, Images, Pictures, Task, check_layers
from experiments.tasks.layers import (
    KLS,
    Constant,
    PixelLikelihood,
    check_kl,
    event_shape,
    kl_per_example,
    layer_input,
)
from gumbel import Family, samplers
from gumbel.types import Batch, Cost, PRNGKey, Sample, Sampler


class VAE(nnx.Module):
    """A linear encoder, discrete latent variables with a learned prior, and a decoder.

        q(z | x) from logits W x + b,    p(z) from learned logits,    p(x | z) Bernoulli

    The paper's is 784-200-784 with Bernoulli latents, whose decoder is linear, or
    784-(20x10)-200-784 with categorical ones, whose decoder has a hidden layer.

    The cost is `-log p(x | z) + KL`, with a KL term of the kind that `kl` names.

    Args:
      pixel_mean: mean image of the training split, `[H, W]`.
      family: family of the latent variables.
      num_variables: number of latent variables.
      num_classes: number of values of each latent variable, if categorical.
      standardize: subtract the mean from the pixels, and standardize samples; see `layer_input`.
      decoder: widths of the decoder's hidden layers.
      kl: the KL term of the training cost, see `kl_per_example`.
      rngs: random streams for the weights.
    """

    def __init__(
        self,
        pixel_mean: Float[Array, "H W"],
        family: Family,
        *,
        num_variables: int,
        num_classes: int,
        standardize: bool,
        decoder: tuple[int, ...],
        kl: str,
        rngs: nnx.Rngs,
    ):
        self.family = family
        self.standardize = standardize
        self.kl = kl
        self.image_shape = tuple(pixel_mean.shape)
        self.pixel_mean = Constant(pixel_mean.ravel())
        self.event = event_shape(family, num_variables, num_classes)
        widths = [math.prod(self.event), *decoder]
        self.encoder = nnx.Linear(pixel_mean.size, widths[0], rngs=rngs)
        self.prior = nnx.Param(jnp.zeros(self.event))
        self.decoder = nnx.List(
            nnx.Linear(below, above, rngs=rngs) for below, above in itertools.pairwise(widths)
        )
        self.likelihood = PixelLikelihood(widths[-1], pixel_mean.ravel(), rngs=rngs)

    def batch(self, images: Images) -> Batch:
        """A batch of flat pixels, under `pixels`."""
        return {"pixels": images.reshape(images.shape[0], -1)}

    def cost(
        self, batch: Batch, key: PRNGKey, sample: Sampler, *, temperature: Any, hard: bool
    ) -> Cost:
        """`-log p(x | z) + KL`, which at a hard sample is the negative log importance weight."""
        logits = self._encode(batch["pixels"])
        z = sample("z", logits)
        prior = jnp.broadcast_to(self.prior[...], logits.shape)
        kind = "sample" if hard else self.kl
        kl = kl_per_example(self.family, kind, logits, prior, z, temperature)
        return self.likelihood.cost(self.decode(z), batch["pixels"]) + kl

    def pictures(self, images: Images, key: PRNGKey) -> Pictures:
        """The digits, their reconstructions, and three rows of samples from the prior."""
        posterior_key, *prior_keys = jax.random.split(key, 4)

        def decoded(z: Sample) -> Images:
            return self.likelihood.mean(self.decode(z)).reshape(-1, *self.image_shape)

        logits = self._encode(self.batch(images)["pixels"])
        z = samplers.hard(posterior_key, self.family)("z", logits)
        pictures = {"digit": images, "reconstruction": decoded(z)}
        prior = jnp.broadcast_to(self.prior[...], logits.shape)
        for index, prior_key in enumerate(prior_keys):
            z = samplers.hard(prior_key, self.family)("z", prior)
            pictures[f"prior sample {index + 1}"] = decoded(z)
        return pictures

    def _encode(self, pixels: Float[Array, "B P"]) -> Float[Array, "B *event"]:
        if self.standardize:
            pixels = pixels - self.pixel_mean[...]
        return self.encoder(pixels).reshape(-1, *self.event)

    def decode(self, z: Sample) -> Float[Array, "B H"]:
        """The top layer below the pixels, from samples."""
        hidden = layer_input(self.family, z, standardize=self.standardize)
        for linear in self.decoder:
            hidden = jnp.tanh(linear(hidden))
        return hidden


@dataclasses.dataclass(frozen=True)
class Options:
    """The task's own settings.

    Attributes:
      decoder: widths of the decoder's hidden layers; unset, the paper's: none for Bernoulli
        variables, one of 200 for categorical ones.
      kl: the KL term of the training cost, see `kl_per_example`.
    """

    decoder: tuple[int, ...] | None = setting(None, WIDTHS)
    kl: str = setting("sample", Choice(KLS))


def check(settings: Settings) -> None:
    """Checks that there is one layer, and that the KL can be used with the estimator."""
    options: Options = settings.options
    check_layers(settings, 1)
    check_kl(options.kl, settings.estimator.spec)


def build(settings: Settings, pixel_mean: Float[Array, "H W"], key: PRNGKey) -> VAE:
    """The autoencoder of the settings, with fresh parameters."""
    options: Options = settings.options
    decoder = options.decoder
    if decoder is None:
        decoder = (200,) if settings.latent == "categorical" else ()
    return VAE(
        pixel_mean,
        settings.family,
        num_variables=settings.num_variables[0],
        num_classes=settings.num_classes,
        standardize=settings.standardize,
        decoder=decoder,
        kl=options.kl,
        rngs=nnx.Rngs(key),
    )


TASK = Task(build, options=Options, check=check)
