"""What a task is, and what the training loop asks of its model."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Array, Float

from experiments.data import Dataset, Split
from experiments.data.batches import Indices
from experiments.errors import refuse
from experiments.settings import LARGEST, Range, Settings
from gumbel import Family
from gumbel.types import Batch, Cost, PRNGKey, Sampler

Images = Float[Array, "B H W"]
Pictures = dict[str, Images]
Dynamic = Mapping[str, Any]  # dynamic hyperparameters, by dotted key
Result = Mapping[str, Any]  # what `result.json` holds


class Model(Protocol):
    """A Flax module whose cost asks `sample` for its discrete variables.

    Attributes:
      family: family of all its sites.
    """

    family: Family

    def batch(self, images: Images) -> Batch:
        """What the cost reads, made of images with pixels in [0, 1]."""

    def cost(
        self, batch: Batch, key: PRNGKey, sample: Sampler, *, temperature: Any, hard: bool
    ) -> Cost:
        """The cost of each example, in nats.

        With `hard`, the samples are discrete and the cost is the negative log weight of the
        importance-weighted bound; otherwise it is what training minimizes, at a temperature.
        """

    def pictures(self, images: Images, key: PRNGKey) -> Pictures:
        """Named rows of images that show what the model has learned."""


class Extra(NamedTuple):
    """A cost on images of its own, whose gradient is added to the estimator's.

    Attributes:
      name: name under which its value is logged.
      cost: `(dynamic, images, params, step, indices) -> scalar`, `images` the training split.
      indices: `(seed, start, num_steps=) -> [steps, n]`, the images that the steps read.
    """

    name: str
    cost: Callable[..., Float[Array, ""]]
    indices: Callable[..., Indices]


class Metrics(NamedTuple):
    """Metrics of a split other than the bound.

    Attributes:
      output: `(model, pixels) -> [B, ...]`, compiled.
      summarize: `(outputs of the split, the split) -> {name: scalar or array}`, on the host.
        Scalars are logged while training; all of it goes into the result.
      units: units of the scalars, by name.
    """

    output: Callable[[Any, Images], Array]
    summarize: Callable[[np.ndarray, Split], dict[str, Any]]
    units: Mapping[str, str]


class Ranking(NamedTuple):
    """What runs are ranked by; lower is better.

    Attributes:
      label: name of the loss, with its unit.
      loss: the loss of a result; infinite if it is unknown.
    """

    label: str
    loss: Callable[[Result], float]


def _bound(result: Result) -> float:
    bound = result["validation_bound"]
    return math.inf if bound is None else float(bound)


BOUND = Ranking("validation bound, nats", _bound)


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """The options of a task that has none."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What a task adds to the generic machinery.

    Attributes:
      build: `(settings, pixel_mean [H, W], key) -> Model`, with fresh parameters.
      options: a frozen dataclass of the task's own config keys with their types and defaults.
      check: refuses settings that cannot work by raising a UserError.
      prepare: checks the dataset, or adapts it to the task.
      annealed: `(settings, dynamic, step) -> {name: scalar}`, what `Model.cost` reads from a
        schedule besides the temperature.
      extra: `(settings, dataset, model) -> Extra`, if there is one.
      metrics: metrics of a split other than the bound, if there are any.
      ranking: what a sweep ranks its runs by.
      depends_on_num_steps: `settings -> str | None`, the option that depends on the number of
        steps, as `key=value`: a run that has one cannot be made longer.
      unread: `settings -> {key: why}`, the keys that a run does not read.
    """

    build: Callable[[Settings, Float[Array, "H W"], PRNGKey], Model]
    options: type = NoOptions
    check: Callable[[Settings], object] = lambda _settings: None
    prepare: Callable[[Settings, Dataset], Dataset] = lambda _settings, dataset: dataset
    annealed: Callable[[Settings, Dynamic, Any], dict[str, Any]] = lambda *_: {}
    extra: Callable[[Settings, Dataset, Any], Extra] | None = None
    metrics: Metrics | None = None
    ranking: Ranking = BOUND
    depends_on_num_steps: Callable[[Settings], str | None] = lambda _settings: None
    unread: Callable[[Settings], dict[str, str]] = lambda _settings: {}


_MOST_LAYERS = 100  # more take minutes to compile, and nothing learns through them


def check_layers(settings: Settings, number: int | None = None) -> None:
    """Checks the latent layers.

    Raises:
      UserError: a layer is empty or not a multiple of `num_classes`, or there are not `number`
        layers.
    """
    layers, classes = settings.layers, settings.num_classes
    if not layers or not _positive_integers(layers):
        refuse("layers", layers, "give at least one layer, of 1 unit or more")
    if len(layers) > _MOST_LAYERS:
        refuse("layers", layers, f"give at most {_MOST_LAYERS}")
    if settings.latent == "categorical" and any(units % classes for units in layers):
        refuse("layers", layers, f"give multiples of {classes} classes")
    if number is not None and len(layers) != number:
        refuse("layers", layers, "give one layer, such as (200,)")


def _positive_integers(widths: Any) -> bool:
    return all(isinstance(width, int) and 1 <= width <= LARGEST for width in widths)


WIDTHS = Range(
    lambda widths: len(widths) <= _MOST_LAYERS and _positive_integers(widths),
    f"give integers of at least 1, at most {_MOST_LAYERS} of them, such as (200,)",
)
THREE_WIDTHS = Range(
    lambda widths: len(widths) == 3 and _positive_integers(widths),
    "give three integers of at least 1, such as (16, 32, 8)",
)
