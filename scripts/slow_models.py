"""The models from their definitions, in NumPy and float64, for `scripts.slow_bound`.

Nothing here comes from the project's code: the classes take trained arrays, by name, and binary
images `[N, H, W]`, and draw their variables with NumPy's generator.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

Array = Float[np.ndarray, "..."]
Arrays = Mapping[Any, Any]


class Model(Protocol):
    """A trained model."""

    def log_weights(self, images: Array, random: np.random.Generator) -> Float[np.ndarray, " N"]:
        """`log p(x, z) - log q(z | x)` at one draw of z for each image."""
        ...


class Variables:
    """Discrete variables given by logits: `[..., D]` if Bernoulli, `[..., D, K]` if categorical.

    Args:
      latent: `bernoulli` or `categorical`.
      num_classes: K.
      standardize: whether layers get draws less 1/K, over their scale under equal probabilities.
    """

    def __init__(self, latent: str, num_classes: int, *, standardize: bool) -> None:
        self.bernoulli, self.num_classes = latent == "bernoulli", num_classes
        self.standardize = standardize

    def shaped(self, flat: Array) -> Array:
        """Logits from a layer's outputs."""
        return flat if self.bernoulli else flat.reshape(len(flat), -1, self.num_classes)

    def draw(self, logits: Array, random: np.random.Generator) -> Array:
        """Zeros and ones, or one-hot vectors."""
        if self.bernoulli:
            return (random.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(float)
        below = np.cumsum(softmax(logits), axis=-1)
        index = (random.random((*logits.shape[:-1], 1)) * below[..., -1:] > below).sum(axis=-1)
        return np.eye(self.num_classes)[index]

    def log_prob(self, logits: Array, z: Array) -> Float[np.ndarray, " N"]:
        """Of all variables of an example together."""
        if self.bernoulli:
            each = z * logits - np.logaddexp(0, logits)
        else:
            each = (z * (logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True))).sum(-1)
        return each.reshape(len(z), -1).sum(axis=1)

    def flat(self, z: Array) -> Array:
        """What the layer above is given."""
        if self.standardize:
            share = 0.5 if self.bernoulli else 1 / self.num_classes
            z = (z - share) / math.sqrt(share * (1 - share))
        return z.reshape(len(z), -1)


class Sbn:
    """`p(lower | upper)` through layers of discrete variables, drawn from the model itself.

    Args:
      arrays: trained.
      pixel_mean: `[H, W]`, of the training images.
      config: of the run.
    """

    def __init__(self, arrays: Arrays, pixel_mean: Array, config: Mapping[str, Any]) -> None:
        self.arrays, self.pixel_mean = arrays, pixel_mean
        self.variables = variables_of(config)

    def log_weights(self, images: Array, random: np.random.Generator) -> Float[np.ndarray, " N"]:
        """See `Model`."""
        rows = images.shape[1] // 2
        below = images[:, :rows]
        if self.variables.standardize:
            below = below - self.pixel_mean[:rows]
        below = below.reshape(len(images), -1)
        for layer in range(len(self.arrays["hidden"])):
            logits = self.variables.shaped(linear(below, self.arrays["hidden"][layer]))
            below = self.variables.flat(self.variables.draw(logits, random))
        pixels = images[:, rows:].reshape(len(images), -1)
        return pixel_log_prob(linear(below, self.arrays["likelihood"]["linear"]), pixels)


class Vae:
    """One layer of discrete variables under a learned prior; the arguments are those of `Sbn`."""

    def __init__(self, arrays: Arrays, pixel_mean: Array, config: Mapping[str, Any]) -> None:
        self.arrays, self.pixel_mean = arrays, pixel_mean
        self.variables = variables_of(config)

    def log_weights(self, images: Array, random: np.random.Generator) -> Float[np.ndarray, " N"]:
        """See `Model`."""
        seen = images - self.pixel_mean if self.variables.standardize else images
        encoded = linear(seen.reshape(len(images), -1), self.arrays["encoder"])
        logits = self.variables.shaped(encoded)
        z = self.variables.draw(logits, random)
        above = self.variables.flat(z)
        for layer in range(len(self.arrays.get("decoder", ()))):
            above = np.tanh(linear(above, self.arrays["decoder"][layer]))
        pixels = images.reshape(len(images), -1)
        likelihood = pixel_log_prob(linear(above, self.arrays["likelihood"]["linear"]), pixels)
        prior = np.broadcast_to(self.arrays["prior"], logits.shape)
        return likelihood + self.variables.log_prob(prior, z) - self.variables.log_prob(logits, z)


class SemiSupervised:
    """A class under equal probabilities and a standard normal style; the arguments are `Sbn`'s."""

    def __init__(self, arrays: Arrays, pixel_mean: Array, config: Mapping[str, Any]) -> None:
        self.arrays, self.pixel_mean = arrays, pixel_mean
        self.num_classes = int(config["num_classes"])
        self.variables = Variables("categorical", self.num_classes, standardize=False)

    def log_weights(self, images: Array, random: np.random.Generator) -> Float[np.ndarray, " N"]:
        """See `Model`."""
        seen = (images - self.pixel_mean)[..., None]
        logits = linear(self._features(seen, "class_encoder"), self.arrays["class_head"])[:, None]
        y = self.variables.draw(logits, random)
        hidden = linear(self._features(seen, "style_encoder"), self.arrays["style_from_image"])
        hidden = np.maximum(hidden + linear(y[:, 0], self.arrays["style_from_class"]), 0)
        mean, log_scale = np.split(linear(hidden, self.arrays["style_head"]), 2, axis=1)
        log_scale = log_scale - 2
        z = mean + np.exp(log_scale) * random.standard_normal(mean.shape)
        log_prior = -math.log(self.num_classes) + normal_log_prob(z, 0, 0)
        log_posterior = self.variables.log_prob(logits, y) + normal_log_prob(z, mean, log_scale)
        pixels = self._decode(np.concatenate([y[:, 0], z], axis=1)) + self.arrays["pixel_bias"]
        flat = (len(images), -1)
        return (
            pixel_log_prob(pixels.reshape(flat), images.reshape(flat)) + log_prior - log_posterior
        )

    def _features(self, maps: Array, name: str) -> Array:
        for layer in range(len(self.arrays[name]["layers"])):
            maps = np.maximum(convolution(maps, self.arrays[name]["layers"][layer], stride=2), 0)
        return maps.reshape(len(maps), -1)

    def _decode(self, vector: Array) -> Array:
        arrays = self.arrays["decoder"]
        rows, columns = (size // 4 for size in self.pixel_mean.shape)
        maps = np.maximum(linear(vector, arrays["linear"]), 0)
        maps = maps.reshape(len(vector), rows, columns, -1)
        maps = np.maximum(convolution(maps, arrays["same"]), 0)
        maps = np.maximum(doubled(convolution(maps, arrays["double"])), 0)
        return doubled(convolution(maps, arrays["last"]))[..., 0]


def variables_of(config: Mapping[str, Any]) -> Variables:
    """The variables of a run's config."""
    return Variables(
        config["latent"], int(config["num_classes"]), standardize=bool(config["standardize"])
    )


def softmax(logits: Array) -> Array:
    """Over the last axis."""
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def linear(inputs: Array, arrays: Arrays) -> Array:
    """`x W + b`; b may be missing."""
    return inputs @ arrays["kernel"] + arrays.get("bias", 0.0)


def convolution(maps: Array, arrays: Arrays, stride: int = 1) -> Array:
    """Of 3 x 3, whose outputs are as many as inputs over the stride, rounded up."""
    kernel = arrays["kernel"]
    sizes = [-(-size // stride) for size in maps.shape[1:3]]
    padding = []
    for size, outputs in zip(maps.shape[1:3], sizes, strict=True):
        both = max((outputs - 1) * stride + 3 - size, 0)
        padding.append((both // 2, both - both // 2))
    padded = np.pad(maps, ((0, 0), *padding, (0, 0)))
    total = np.zeros((len(maps), *sizes, kernel.shape[-1]))
    for row, column in itertools.product(range(3), range(3)):
        rows = slice(row, row + stride * sizes[0], stride)
        columns = slice(column, column + stride * sizes[1], stride)
        total += padded[:, rows, columns][:, : sizes[0], : sizes[1]] @ kernel[row, column]
    return total + arrays["bias"]


def doubled(maps: Array) -> Array:
    """Each pixel's channels, in four groups, as a block of 2 x 2 pixels."""
    count, rows, columns, channels = maps.shape
    out = np.zeros((count, 2 * rows, 2 * columns, channels // 4))
    for row, column in itertools.product(range(2), range(2)):
        first = (2 * row + column) * (channels // 4)
        out[:, row::2, column::2] = maps[..., first : first + channels // 4]
    return out


def pixel_log_prob(logits: Array, pixels: Array) -> Float[np.ndarray, " N"]:
    """Of independent binary pixels, summed over those of an image."""
    return (pixels * logits - np.logaddexp(0, logits)).sum(axis=1)


def normal_log_prob(z: Array, mean: Any, log_scale: Any) -> Float[np.ndarray, " N"]:
    """Of independent normal variables, summed over those of an image."""
    distance = (z - mean) / np.exp(log_scale)
    return (-0.5 * distance**2 - log_scale - 0.5 * math.log(2 * math.pi)).sum(axis=1)
