"""Labels for semi-supervised learning: which images are labeled, and random labels for timing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from experiments.data.datasets import Dataset
from experiments.errors import UserError
from gumbel.types import PRNGKey

Indices = Int[Array, " labels"]


def check(dataset: Dataset, *, num_labels: int, num_classes: int) -> None:
    """Refuses a dataset without labels, of other classes, or with too few images of a class.

    Raises:
      UserError: it names the config key to change.
    """
    if dataset.num_classes is None or dataset.train.labels is None:
        raise UserError(
            f"config.dataset={dataset.name}: it has no labels; use mnist or digits, "
            "or config.labels=random"
        )
    if dataset.num_classes != num_classes:
        raise UserError(
            f"config.num_classes={num_classes}: {dataset.name} has "
            f"{dataset.num_classes} classes; give that number, or config.labels=random"
        )
    fewest = int(np.bincount(dataset.train.labels, minlength=num_classes).min())
    if fewest < num_labels // num_classes:
        raise UserError(
            f"config.num_labels={num_labels}: {dataset.name} has a class of {fewest} "
            f"training images; give at most {fewest * num_classes}"
        )


def labeled(
    key: PRNGKey, labels: Int[Array, " N"], *, num_labels: int, num_classes: int
) -> Indices:
    """The indices of the images whose labels may be read, equally many of each class.

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


def with_random_labels(dataset: Dataset, num_classes: int) -> Dataset:
    """The same images with random labels, as the paper times training with."""
    # RandomState's stream is frozen for good.
    random = np.random.RandomState(0)
    train, validation, test = (
        dataclasses.replace(split, labels=random.randint(num_classes, size=len(split)).astype("i4"))
        for split in (dataset.train, dataset.validation, dataset.test)
    )
    return dataclasses.replace(
        dataset, train=train, validation=validation, test=test, num_classes=num_classes
    )
