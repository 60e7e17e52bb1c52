"""Which images are labelled, and which labelled images a step reads: by the seed alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int
from ml_collections import ConfigDict

from experiments.data import Dataset
from experiments.errors import UserError
from gumbel.types import PRNGKey

Indices = Int[Array, " labels"]


def prepared(config: ConfigDict, dataset: Dataset) -> Dataset:
    """The dataset with the labels that the config asks for: its own, or random ones.

    Raises:
      UserError: no labels, another number of classes, or too few images of a class to label.
    """
    if config.labels == "random":
        dataset = _with_random_labels(dataset, config.num_classes)
    if dataset.num_classes is None or dataset.train.labels is None:
        raise UserError(
            f"config.dataset={config.dataset}: it has no labels; use mnist or digits, "
            "or config.labels=random"
        )
    if dataset.num_classes != config.num_classes:
        raise UserError(
            f"config.num_classes={config.num_classes}: {config.dataset} has "
            f"{dataset.num_classes} classes; give that number, or config.labels=random"
        )
    each = config.num_labels // config.num_classes
    fewest = int(np.bincount(dataset.train.labels, minlength=config.num_classes).min())
    if fewest < each:
        raise UserError(
            f"config.num_labels={config.num_labels}: {config.dataset} has a class of {fewest} "
            f"training images; give at most {fewest * config.num_classes}"
        )
    return dataset


def labelled(
    key: PRNGKey, labels: Int[Array, " N"], *, num_labels: int, num_classes: int
) -> Indices:
    """The indices of the images whose labels may be read, as many of each class.

    Args:
      key: of the draw.
      labels: of all images.
      num_labels: a multiple of `num_classes`.
      num_classes: of the labels.
    """
    scores = jax.random.uniform(key, labels.shape)

    def of_class(label: Array) -> Indices:
        return jax.lax.top_k(jnp.where(labels == label, scores, -1.0), num_labels // num_classes)[1]

    return jax.vmap(of_class)(jnp.arange(num_classes)).reshape(-1)


def _with_random_labels(dataset: Dataset, num_classes: int) -> Dataset:
    """The same images under labels that say nothing of them, as the paper's timing has them."""
    # RandomState's stream is frozen for good.
    random = np.random.RandomState(0)
    train, validation, test = (
        dataclasses.replace(split, labels=random.randint(num_classes, size=len(split)).astype("i4"))
        for split in (dataset.train, dataset.validation, dataset.test)
    )
    return dataclasses.replace(
        dataset, train=train, validation=validation, test=test, num_classes=num_classes
    )
