"""Semi-supervised learning, section 4.3: Kingma's M2, an image of a class and a style."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from experiments.data import Dataset, Split, labels
from experiments.data.batches import Indices, Purpose, batch_indices, key_for, pixels
from experiments.errors import check_choice, refuse
from experiments.settings import Settings, dynamic
from experiments.tasks.base import (
    Dynamic,
    Extra,
    Images,
    Metrics,
    Pictures,
    Ranking,
    Task,
    positive_integers,
)
from experiments.tasks.layers import (
    KERNEL,
    KL,
    Constant,
    Decoder,
    Encoder,
    check_kl,
    kl_per_example,
    pixel_logits,
    with_params,
)
from gumbel import BERNOULLI, CATEGORICAL, Family, samplers, schedules
from gumbel.types import Batch, Cost, Logits, Params, PRNGKey, Sample, Sampler

Classes = Float[Array, "B K"]
Labels = Int[Array, " B"]
Style = Float[Array, "B S"]

_LOG_SCALE = -2.0  # of the style, at the start
_LARGEST = float(np.finfo(np.float32).max)


class SemiSupervised(nnx.Module):
    """A class y and a Gaussian style z, from which convolutions draw the image.

        p(y) = 1/K,  p(z) = N(0, 1),  p(x | y, z) Bernoulli,  q(y | x),  q(z | x, y) Gaussian

    An unlabeled image costs the negative bound, in which y is the site `y` of the objective, so
    any estimator serves it; a labeled one that with y observed, and its cross-entropy besides:

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
            self.style_encoder.num_features, head, kernel_init=KERNEL, rngs=rngs
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
        """The cost of an unlabeled image; if `hard`, the negative log importance weight."""
        kind = "sample" if hard else self.kl
        at_draw = kind == "sample"
        logits, y, cost = self._joint(batch, key, sample, at_draw=at_draw, style_beta=style_beta)
        prior = jnp.zeros_like(logits)
        return cost + kl_per_example(self.family, kind, logits, prior, y, temperature)

    def labeled_cost(
        self,
        images: Images,
        labels: Labels,
        key: PRNGKey,
        *,
        bound_weight: Any,
        label_weight: Any,
        style_beta: Any = 1.0,
    ) -> Cost:
        """The cost of a labeled image."""
        observed = jax.nn.one_hot(labels, self.num_classes, dtype=images.dtype)[:, None]

        def observe(_site: str, _logits: Logits) -> Sample:
            return observed

        logits, y, cost = self._joint(images, key, observe, at_draw=False, style_beta=style_beta)
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


@dataclasses.dataclass(frozen=True)
class Options:
    """The task's own settings.

    Attributes:
      labels: `true`, or `random` ones of any `num_classes`, for timing.
      num_labels: equally many of each class, drawn by the seed.
      labeled_batch_size: labeled images in a step.
      alpha: the mean cross-entropy weighs alpha times the unlabeled images per label.
      labeled_weight: images that a labeled one counts as, in the bound.
      style_dim: dimensions of the style.
      style_beta: weight of the style's KL at first. It falls linearly to 1; a heavily penalized
        style leaves it to the class to say which digit it is.
      style_beta_share: of the run's steps, over which it falls.
      encoder: channels of q(y | x), and of q(z | x, y).
      head: units where class and image meet in q(z | x, y).
      decoder: channels of p(x | y, z).
      kl: the KL term of the class.
    """

    labels: str = "true"
    num_labels: int = 100
    labeled_batch_size: int = 20
    alpha: float = dynamic(0.1)
    labeled_weight: float = dynamic(50.0)
    style_dim: int = 16
    style_beta: float = dynamic(4.0)
    style_beta_share: float = 0.5
    encoder: tuple[int, int, int] = (16, 32, 32)
    head: int = 128
    decoder: tuple[int, int, int] = (16, 32, 8)
    kl: KL = "analytic"


def check(settings: Settings) -> None:
    """Refuses labels, weights and widths that cannot work."""
    options: Options = settings.options
    check_choice("labels", options.labels, ("true", "random"))
    if settings.latent != "categorical":
        refuse("latent", settings.latent, "the class of semi_supervised is categorical")
    classes, number = settings.num_classes, options.num_labels
    if number < classes:
        refuse("num_labels", number, f"give at least one label for each of {classes} classes")
    if number % classes:
        below, above = number // classes * classes, -(-number // classes) * classes
        refuse("num_labels", number, f"give a multiple of {classes} classes: {below} or {above}")
    if not 1 <= options.labeled_batch_size <= number:
        fix = f"give a number from 1 to {number}"
        refuse("labeled_batch_size", options.labeled_batch_size, fix)
    for key in ("alpha", "labeled_weight"):
        if not 0 <= getattr(options, key) <= _LARGEST:
            refuse(key, getattr(options, key), "give a finite number of at least 0")
    if not 0 < options.style_beta <= _LARGEST:
        refuse("style_beta", options.style_beta, "give a finite number over 0")
    if not 0 <= options.style_beta_share <= 1:
        refuse("style_beta_share", options.style_beta_share, "give a number in [0, 1]")
    for key in ("style_dim", "head"):
        if getattr(options, key) < 1:
            refuse(key, getattr(options, key), "give at least 1")
    for key in ("encoder", "decoder"):
        if len(getattr(options, key)) != 3 or not positive_integers(getattr(options, key)):
            fix = "give three whole numbers of at least 1, such as (16, 32, 8)"
            refuse(key, getattr(options, key), fix)
    check_kl(options.kl, settings.estimator.spec)


def build(settings: Settings, pixel_mean: Float[Array, "H W"], key: PRNGKey) -> SemiSupervised:
    """The model of the settings, with fresh parameters."""
    options: Options = settings.options
    return SemiSupervised(
        pixel_mean,
        num_classes=settings.num_classes,
        style_dim=options.style_dim,
        encoder=options.encoder,
        decoder=options.decoder,
        head=options.head,
        kl=options.kl,
        rngs=nnx.Rngs(key),
    )


def prepare(settings: Settings, dataset: Dataset) -> Dataset:
    """The dataset with the labels that the settings ask for: its own, or random ones."""
    options: Options = settings.options
    if options.labels == "random":
        dataset = labels.with_random_labels(dataset, settings.num_classes)
    labels.check(dataset, num_labels=options.num_labels, num_classes=settings.num_classes)
    return dataset


def annealed(settings: Settings, dynamic: Dynamic, step: Any) -> dict[str, Any]:
    """The weight of the style's KL: it falls to 1 over a share of the run's steps."""
    until = max(1, round(settings.options.style_beta_share * settings.num_steps))
    return {"style_beta": schedules.linear(dynamic["style_beta"], 1.0, until)(step)}


def labeled_images(settings: Settings, dataset: Dataset, model: SemiSupervised) -> Extra:
    """The labeled images and their cost.

    With N_u unlabeled and N_l labeled images in all, the mean of the labeled images' bounds weighs
    N_l / N_u times `labeled_weight`, beside the mean of the others: at `labeled_weight` 1 every
    image counts once, at 50 each label is worth 50 images. The mean cross-entropy weighs
    alpha N_u / N_l, our reading of the paper's alpha (at 0.1, 100 labels of 50,000 images: 50).
    Where that is from, and what else was tried, stands in results/README.md.
    """
    options: Options = settings.options
    labeled_per_unlabeled = options.num_labels / len(dataset.train)
    classes = jnp.asarray(dataset.train.labels)

    def cost(
        dynamic: Dynamic,
        images: Images,
        params: Params,
        step: Int[Array, ""],
        indices: Int[Array, " labeled"],
    ) -> Float[Array, ""]:
        key = jax.random.fold_in(key_for(dynamic["seed"], Purpose.EXTRA_STEP), step)
        pixel_key, cost_key = jax.random.split(key)
        drawn = settings.dynamic_binarization
        costs = with_params(model, params).labeled_cost(
            pixels(images[indices], dataset.max_value, pixel_key, dynamic=drawn),
            classes[indices],
            cost_key,
            bound_weight=dynamic["labeled_weight"] * labeled_per_unlabeled,
            label_weight=dynamic["alpha"] / labeled_per_unlabeled,
            **annealed(settings, dynamic, step),
        )
        return jnp.mean(costs)

    def indices(seed: Int[Array, ""], start: Int[Array, ""], *, num_steps: int) -> Indices:
        chosen = labels.labeled(
            key_for(seed, Purpose.EXTRA_CHOICE),
            classes,
            num_labels=options.num_labels,
            num_classes=settings.num_classes,
        )
        rows = batch_indices(
            seed,
            start,
            num_steps=num_steps,
            size=options.num_labels,
            batch_size=options.labeled_batch_size,
            purpose=Purpose.EXTRA_SHUFFLE,
        )
        return chosen[rows]

    return Extra("labeled_cost", cost, indices)


def classification(logits: Float[np.ndarray, "N K"], split: Split) -> dict[str, Any]:
    """The percentage of images taken for their own class, and counts by class and guess."""
    assert split.labels is not None
    confusion = np.zeros(2 * logits.shape[-1:], int)
    np.add.at(confusion, (split.labels, logits.argmax(axis=-1)), 1)
    return {
        "accuracy": 100 * float(np.trace(confusion) / confusion.sum()),
        "confusion": confusion,
    }


def _error(result: Mapping[str, Any]) -> float:
    return 100 - float(result["validation_accuracy"])


TASK = Task(
    build,
    options=Options,
    check=check,
    prepare=prepare,
    annealed=annealed,
    extra=labeled_images,
    metrics=Metrics(
        lambda model, images: model.class_logits(images), classification, {"accuracy": "%"}
    ),
    ranking=Ranking("validation error, %", _error),
)
