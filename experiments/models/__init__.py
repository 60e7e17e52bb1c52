"""The paper's models, in Flax; the only place of the project that imports it."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float
from ml_collections import ConfigDict

import gumbel
from experiments.models.base import (
    KLS,
    Classifier,
    Images,
    Model,
    Pictures,
    objective,
    params_of,
    with_params,
)
from experiments.models.sbn import SBN
from experiments.models.semi_supervised import SemiSupervised
from experiments.models.vae import VAE
from gumbel.types import PRNGKey

__all__ = [
    "KLS",
    "MODELS",
    "SBN",
    "VAE",
    "Classifier",
    "Images",
    "Model",
    "Pictures",
    "SemiSupervised",
    "build",
    "objective",
    "params_of",
    "with_params",
]


def _variables(config: ConfigDict) -> tuple[int, ...]:
    """The number of variables in each layer: its units, over the classes if one-hot."""
    units_each = config.num_classes if config.latent == "categorical" else 1
    return tuple(units // units_each for units in config.layers)


def _sbn(config: ConfigDict, mean: Float[Array, "H W"], rngs: nnx.Rngs) -> SBN:
    return SBN(
        mean,
        gumbel.family(config.latent),
        layers=_variables(config),
        num_classes=config.num_classes,
        standardize=config.standardize,
        rngs=rngs,
    )


def _vae(config: ConfigDict, mean: Float[Array, "H W"], rngs: nnx.Rngs) -> VAE:
    decoder = config.decoder
    if decoder is None:  # the paper's: linear, or one hidden layer for categorical latents
        decoder = (200,) if config.latent == "categorical" else ()
    return VAE(
        mean,
        gumbel.family(config.latent),
        num_variables=_variables(config)[0],
        num_classes=config.num_classes,
        standardize=config.standardize,
        decoder=tuple(decoder),
        kl=config.kl,
        rngs=rngs,
    )


def _semi_supervised(
    config: ConfigDict, mean: Float[Array, "H W"], rngs: nnx.Rngs
) -> SemiSupervised:
    return SemiSupervised(
        mean,
        num_classes=config.num_classes,
        style_dim=config.style_dim,
        encoder=tuple(config.encoder),
        decoder=tuple(config.decoder),
        head=config.head,
        kl=config.kl,
        rngs=rngs,
    )


MODELS: dict[str, Any] = {"sbn": _sbn, "vae": _vae, "semi_supervised": _semi_supervised}


def build(config: ConfigDict, pixel_mean: Float[Array, "H W"], key: PRNGKey) -> Model:
    """The model of a config, with fresh parameters.

    Args:
      config: reads `model`, `num_classes` and the model's own keys.
      pixel_mean: of the training split, in [0, 1].
      key: for the weights.
    """
    return MODELS[config.model](config, jnp.asarray(pixel_mean), nnx.Rngs(key))
