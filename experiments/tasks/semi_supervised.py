"""Semi-supervised learning, section 4.3: Kingma's M2, an image of a class and a style."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from experiments.data import Dataset
from experiments.errors import refuse
from experiments.settings import COUNT, NOT_NEGATIVE, POSITIVE, SHARE, Choice, Settings, setting
from experiments.tasks import functional, labels, layers, style
from experiments.tasks.base import (
    THREE_WIDTHS,
    Dynamic,
    Extra,
    Images,
    Pictures,
    Task,
)
from gumbel import BERNOULLI, CATEGORICAL, Family, samplers
from gumbel.types import Batch, Cost, Params, PRNGKey, Sample, Sampler

Classes = Float[Array, "B K"]
Labels = Int[Array, " B"]
Style = Float[Array, "B S"]

_LOG_SCALE = -2.0  # of the style, at the start


@dataclasses.dataclass(frozen=True)
class Options:
    """The task's own settings."""

    labels: str = setting("true", Choice(("true", "random")))  # random ones are for timing
    num_labels: int = setting(100, COUNT)  # equally many of each class, drawn by the seed
    labeled_batch_size: int = setting(20, COUNT)  # labeled images in a step
    # The mean cross-entropy weighs alpha times the unlabeled images per label: 0.1 * 500 = 50.
    alpha: float = setting(0.1, NOT_NEGATIVE, dynamic=True)
    # Images that a labeled one counts as, in the bound.
    labeled_weight: float = setting(50.0, NOT_NEGATIVE, dynamic=True)
    style_dim: int = setting(16, COUNT)
    # Initial weight of the style's KL; it falls to 1 over this share of the steps, and is always 1
    # if the share is 0. While the style's KL is heavily penalized, the class has to encode the
    # digit.
    style_beta: float = setting(4.0, POSITIVE, dynamic=True)
    style_beta_share: float = setting(0.5, SHARE)
    encoder: tuple[int, int, int] = setting((16, 32, 32), THREE_WIDTHS)  # of q(y|x), of q(z|x,y)
    head: int = setting(128, COUNT)  # units where class and image meet in q(z | x, y)
    decoder: tuple[int, int, int] = setting((16, 32, 8), THREE_WIDTHS)  # channels of p(x | y, z)
    kl: str = setting("analytic", Choice(layers.KLS))  # the KL term of the class


class SemiSupervised(nnx.Module):
    """A class y and a Gaussian style z, from which convolutions draw the image.

        p(y) = 1/K,  p(z) = N(0, 1),  p(x | y, z) Bernoulli,  q(y | x),  q(z | x, y) Gaussian

    The cost of an unlabeled image is the negative bound, in which y is the site `y` of the
    objective. That of a labeled one is the negative bound with y observed, plus a cross-entropy:

        E_q(y|x)[ L(x, y) ] + KL(q(y | x) || p(y)),
        bound_weight (L(x, y) - log p(y)) - label_weight log q(y | x),

        L(x, y) = E_q(z|x,y)[ -log p(x | y, z) ] + beta KL(q(z | x, y) || p(z)).

    It is a bound at beta = 1, where training ends. A larger beta (Higgins et al., 2017)
    penalizes the style, so that the class has to encode the digit.

    The class joins q(z | x, y) after its convolutions, so that a sum over classes repeats only what
    depends on them.

    Args:
      pixel_mean: mean image of the training split, `[H, W]`; H and W are multiples of 4.
      num_classes: K.
      options: options of the task; `kl` is the KL term of y in training. The KL of z is taken at
        the draw if `kl` is `sample`, and in evaluation; otherwise, and always for labeled images,
        it is analytic.
      rngs: random streams for the weights.
    """

    def __init__(
        self, pixel_mean: Float[Array, "H W"], num_classes: int, options: Options, *, rngs: nnx.Rngs
    ):
        self.family: Family = CATEGORICAL
        self.num_classes, self.style_dim, self.kl = num_classes, options.style_dim, options.kl
        shape, head = (pixel_mean.shape[0], pixel_mean.shape[1]), options.head
        self.pixel_mean = layers.Constant(pixel_mean)
        self.class_encoder = layers.Encoder(shape, options.encoder, rngs=rngs)
        self.class_head = nnx.Linear(self.class_encoder.num_features, num_classes, rngs=rngs)
        self.style_encoder = layers.Encoder(shape, options.encoder, rngs=rngs)
        self.style_from_image = nnx.Linear(
            self.style_encoder.num_features, head, kernel_init=layers.KERNEL, rngs=rngs
        )
        self.style_from_class = nnx.Linear(num_classes, head, use_bias=False, rngs=rngs)
        self.style_head = nnx.Linear(head, 2 * self.style_dim, rngs=rngs)
        num_inputs = num_classes + self.style_dim
        self.decoder = layers.Decoder(num_inputs, shape, options.decoder, rngs=rngs)
        self.pixel_bias = nnx.Param(layers.pixel_logits(pixel_mean))

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
        return cost + layers.kl_per_example(self.family, kind, logits, prior, y, temperature)

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
        joint = functools.partial(self._joint, at_draw=False, style_beta=style_beta)
        known = samplers.condition(lambda _, *given: joint(*given), {"y": observed})
        logits, y, cost = known(None, images, key, samplers.mean_field(self.family))
        log_q = samplers.sum_per_example(self.family.log_prob(logits, y))
        return bound_weight * (cost + math.log(self.num_classes)) - label_weight * log_q

    def class_logits(self, images: Images) -> Classes:
        """The logits of q(y | x)."""
        return self.class_head(self.class_encoder(images - self.pixel_mean[...]))

    def pictures(self, images: Images, key: PRNGKey) -> Pictures:
        """Analogies: each row has an image and its style in every class."""
        y = jax.nn.one_hot(jnp.argmax(self.class_logits(images), axis=-1), self.num_classes)
        mean, _ = self.style(images, y)

        def drawn(one_hot: Float[Array, " K"]) -> Images:
            return jax.nn.sigmoid(self.decode(jnp.broadcast_to(one_hot, y.shape), mean))

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
        mean, log_scale = self.style(images, y[:, 0])
        noise = jax.random.normal(key, mean.shape, mean.dtype)
        z = mean + jnp.exp(log_scale) * noise
        if at_draw:  # log q(z) - log p(z)
            kl = 0.5 * (jnp.square(z) - jnp.square(noise)) - log_scale
        else:
            kl = 0.5 * (jnp.square(mean) + jnp.exp(2 * log_scale) - 1) - log_scale
        log_likelihood = BERNOULLI.log_prob(self.decode(y[:, 0], z), images)
        cost = style_beta * samplers.sum_per_example(kl) - samplers.sum_per_example(log_likelihood)
        return logits, y, cost

    def style(self, images: Images, y: Classes) -> tuple[Style, Style]:
        """The mean and the log of the scale of q(z | x, y)."""
        from_image = self.style_from_image(self.style_encoder(images - self.pixel_mean[...]))
        hidden = jax.nn.relu(from_image + self.style_from_class(y))
        mean, log_scale = jnp.split(self.style_head(hidden), 2, axis=-1)
        return mean, log_scale + _LOG_SCALE

    def decode(self, y: Classes, z: Style) -> Images:
        """The logits of p(x | y, z)."""
        return self.decoder(jnp.concatenate([y, z], axis=-1)) + self.pixel_bias[...]


def check(settings: Settings) -> None:
    """Checks that the classes are categorical, the numbers of labels, and the KL."""
    if settings.latent != "categorical":
        refuse("latent", settings.latent, "the class of semi_supervised is categorical")
    labels.check(settings)
    layers.check_kl(settings.options.kl, settings.estimator.spec)


def build(settings: Settings, pixel_mean: Float[Array, "H W"], key: PRNGKey) -> SemiSupervised:
    """The model of the settings, with fresh parameters."""
    return SemiSupervised(pixel_mean, settings.num_classes, settings.options, rngs=nnx.Rngs(key))


def labeled_images(settings: Settings, dataset: Dataset, model: SemiSupervised) -> Extra:
    """The labeled images and their cost.

    With N_u unlabeled and N_l labeled images in all, the mean of the labeled images' bounds weighs
    N_l / N_u times `labeled_weight`, against the mean of the others: at `labeled_weight` 1 every
    image counts once, at 50 each label is worth 50 images. The mean cross-entropy weighs
    alpha N_u / N_l, our reading of the paper's alpha (at 0.1, 100 labels of 50,000 images: 50).
    docs/reproduction/choices.md gives the reasons, and what else was tried.
    """
    labeled_per_unlabeled = settings.options.num_labels / len(dataset.train)

    def cost(
        dynamic: Dynamic, params: Params, images: Images, classes: Labels, key: PRNGKey, step: Any
    ) -> Cost:
        return functional.with_params(model, params).labeled_cost(
            images,
            classes,
            key,
            bound_weight=dynamic["labeled_weight"] * labeled_per_unlabeled,
            label_weight=dynamic["alpha"] / labeled_per_unlabeled,
            **style.annealed(settings, dynamic, step),
        )

    return labels.extra(settings, dataset, cost)


TASK = Task(
    build,
    options=Options,
    check=check,
    prepare=lambda settings, data: labels.prepare(settings, layers.check_sides(data)),
    annealed=style.annealed,
    extra=labeled_images,
    metrics=labels.METRICS,
    ranking=labels.RANKING,
    depends_on_num_steps=style.depends_on_num_steps,
    unread=lambda settings: (
        dict.fromkeys(("layers", "standardize"), f"task={settings.task} has none")
        | style.unread(settings)
    ),
)
