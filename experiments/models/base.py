"""What the training loop asks of a model, and the parts that the models share."""

from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from gumbel import BERNOULLI, Family, Objective, samplers
from gumbel.types import Batch, Cost, Params, PRNGKey, Sample, Sampler

Images = Float[Array, "B H W"]
Pixels = Float[Array, "B P"]
Labels = Int[Array, " B"]
Pictures = dict[str, Images]
KL = Literal["sample", "analytic", "relaxed"]
KLS: tuple[KL, ...] = ("sample", "analytic", "relaxed")


class Model(Protocol):
    """A Flax module whose cost asks `sample` for its discrete variables.

    Attributes:
      family: of all its sites.
    """

    family: Family

    def batch(self, images: Images) -> Batch:
        """What the cost reads, made of images with pixels in [0, 1]."""

    def cost(
        self, batch: Batch, key: PRNGKey, sample: Sampler, *, temperature: Any, hard: bool
    ) -> Cost:
        """The cost of each example, in nats.

        With `hard`, the samples are discrete and the cost is the negative log weight of the
        m-sample bound; otherwise it is what training descends, at a temperature.
        """

    def pictures(self, images: Images, key: PRNGKey) -> Pictures:
        """Named rows of images that show what the model has learned."""


@runtime_checkable
class Classifier(Protocol):
    """What a model has besides that infers the class of an image, and learns from labels too."""

    def class_logits(self, images: Images) -> Float[Array, "B K"]:
        """The logits of each class, given images with pixels in [0, 1]."""

    def labelled_cost(
        self,
        images: Images,
        labels: Labels,
        key: PRNGKey,
        *,
        bound_weight: Any,
        label_weight: Any,
        **annealed: Any,
    ) -> Cost:
        """The cost of each labelled image, in nats: its weighted bound and cross-entropy."""


def objective(
    model: Any, *, temperature: Any = None, hard: bool = False, **annealed: Any
) -> Objective:
    """The cost of a model's architecture, as a pure function of its parameters.

    Args:
      model: a `Model`; its own parameters are not read.
      temperature, hard: see `Model.cost`.
      annealed: what else the cost of this model reads that a schedule gives.
    """

    def call(params: Params, batch: Batch, key: PRNGKey, sample: Sampler) -> Cost:
        merged = with_params(model, params)
        return merged.cost(batch, key, sample, temperature=temperature, hard=hard, **annealed)

    return call


def params_of(model: Any) -> Params:
    """The model's parameters as nested dictionaries of arrays."""
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def with_params(model: Any, params: Params) -> Any:
    """A copy of the model that holds these parameters."""
    graph, _, *constants = nnx.split(model, nnx.Param, ...)
    return nnx.merge(graph, nnx.State(params), *constants)


class Constant(nnx.Variable[Array]):
    """An array of the model that is not trained."""


class PixelLikelihood(nnx.Module):
    """Independent Bernoulli pixels, whose logits are a linear function of the layer below.

    Args:
      num_inputs: width of the layer below.
      pixel_mean: `[P]`, of the training split; the biases start at its logits.
      rngs: for the weights.
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
    kl: KL,
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
        per_variable = family.relaxed_log_prob(logits, temperature, z) - family.relaxed_log_prob(
            prior, temperature, z
        )
    else:
        per_variable = family.log_prob(logits, z) - family.log_prob(prior, z)
    return samplers.sum_per_example(per_variable)


def event_shape(family: Family, num_variables: int, num_classes: int) -> tuple[int, ...]:
    """The shape of one site's logits per example: `(D,)` or `(D, K)`."""
    return (num_variables, num_classes) if family.event_ndims else (num_variables,)


def layer_input(family: Family, z: Sample, *, standardize: bool) -> Float[Array, "B H"]:
    """Samples as the flat input of a layer; if `standardize`, less their mean, over their scale.

        (z - 1/K) / sqrt((1/K) (1 - 1/K)),    K = 2 for Bernoulli variables: 2 z - 1

    These have mean 0 and variance 1 under uniform logits. It changes no model, since weights and
    biases can undo it, but training: the layer above learns faster at the same learning rate.
    """
    if standardize:
        mean = family.uniform_mean(z)
        z = (z - mean) / jnp.sqrt(mean * (1 - mean))
    return z.reshape(z.shape[0], -1)
