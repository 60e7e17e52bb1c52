"""Labels as a part of a task: which images are labeled, their extra cost, the accuracy.

A task that uses this has the options `labels`, `num_labels` and `labeled_batch_size`, and a model
with `class_logits`.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from experiments.data import Dataset, Split, batches
from experiments.data.batches import Purpose, batch_indices, key_for
from experiments.errors import UserError, refuse
from experiments.settings import Settings
from experiments.tasks.base import Dynamic, Extra, Metrics, Ranking, Result
from gumbel.types import Params, PRNGKey

Indices = Int[Array, " labels"]


def check(settings: Settings) -> None:
    """Checks that the labels can be shared equally among the classes."""
    options, classes = settings.options, settings.num_classes
    number = options.num_labels
    if number < classes:
        refuse("num_labels", number, f"give at least one label for each of {classes} classes")
    if number % classes:
        below, above = number // classes * classes, -(-number // classes) * classes
        refuse("num_labels", number, f"give a multiple of {classes} classes: {below} or {above}")
    if options.labeled_batch_size > number:
        fix = f"give a number from 1 to {number}"
        refuse("labeled_batch_size", options.labeled_batch_size, fix)


def prepare(settings: Settings, dataset: Dataset) -> Dataset:
    """The dataset with the labels that the settings ask for: its own, or random ones.

    Raises:
      UserError: it has no labels, other classes, or too few images of a class.
    """
    options, classes = settings.options, settings.num_classes
    if options.labels == "random":
        dataset = with_random_labels(dataset, classes)
    _check_dataset(dataset, num_labels=options.num_labels, num_classes=classes)
    return dataset


def _check_dataset(dataset: Dataset, *, num_labels: int, num_classes: int) -> None:
    """Checks that a dataset has labels, as many classes, and enough images of each."""
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
    if num_classes > len(dataset.train):
        fix = f"{dataset.name} has {len(dataset.train)} training images; give at most that"
        refuse("num_classes", num_classes, fix)
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
      key: PRNG key of the draw.
      labels: labels of all images.
      num_labels: a multiple of `num_classes`.
      num_classes: number of classes.
    """
    scores = jax.random.uniform(key, labels.shape)

    def of_class(label: Array) -> Indices:
        return jax.lax.top_k(jnp.where(labels == label, scores, -1.0), num_labels // num_classes)[1]

    return jax.vmap(of_class)(jnp.arange(num_classes)).reshape(-1)


def with_random_labels(dataset: Dataset, num_classes: int) -> Dataset:
    """The same images with random labels, as in the paper's timing of training."""
    # RandomState's stream is frozen.
    random = np.random.RandomState(0)
    train, validation, test = (
        dataclasses.replace(split, labels=random.randint(num_classes, size=len(split)).astype("i4"))
        for split in (dataset.train, dataset.validation, dataset.test)
    )
    return dataclasses.replace(
        dataset, train=train, validation=validation, test=test, num_classes=num_classes
    )


def extra(settings: Settings, dataset: Dataset, cost: Any) -> Extra:
    """The mean of a cost over labeled images, a batch of them per step.

    Args:
      settings: settings of the run.
      dataset: dataset, prepared.
      cost: `(dynamic, params, pixels [B, H, W], labels [B], key, step) -> [B]`.
    """
    options = settings.options
    classes = jnp.asarray(dataset.train.labels)

    def mean_cost(
        dynamic: Dynamic,
        images: batches.RawImages,
        params: Params,
        step: Int[Array, ""],
        indices: Int[Array, " labeled"],
    ) -> Float[Array, ""]:
        key = jax.random.fold_in(key_for(dynamic["seed"], Purpose.EXTRA_STEP), step)
        pixel_key, cost_key = jax.random.split(key)
        pixels = batches.pixels(
            images[indices],
            dataset.max_value,
            pixel_key,
            dynamic_binarization=settings.dynamic_binarization,
        )
        return jnp.mean(cost(dynamic, params, pixels, classes[indices], cost_key, step))

    def indices(seed: Int[Array, ""], start: Int[Array, ""], *, num_steps: int) -> batches.Indices:
        chosen = labeled(
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

    return Extra("labeled_cost", mean_cost, indices)


def classification(logits: Float[np.ndarray, "N K"], split: Split) -> dict[str, Any]:
    """The accuracy in percent, and the confusion matrix, by true and by predicted class."""
    assert split.labels is not None
    confusion = np.zeros(2 * logits.shape[-1:], int)
    np.add.at(confusion, (split.labels, logits.argmax(axis=-1)), 1)
    return {"accuracy": 100 * float(np.trace(confusion) / confusion.sum()), "confusion": confusion}


def _error(result: Result) -> float:
    accuracy = result["validation_accuracy"]
    return math.inf if accuracy is None else 100 - float(accuracy)


METRICS = Metrics(
    lambda model, images: model.class_logits(images), classification, {"accuracy": "%"}
)
RANKING = Ranking("validation error, %", _error)
