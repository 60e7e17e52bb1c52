"""The image sets of tensorflow-datasets: version, sizes, and the SHA-256 of their arrays."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Spec:
    """An image set as tensorflow-datasets publishes it.

    Attributes:
      name: its name in tensorflow-datasets.
      version: its version there.
      splits: number of examples of each official split.
      held_out: how many examples at the end of `train` are the validation split (0 for a set that
        has a `validation` split of its own).
      max_value: the pixel value that means 1.0.
      image_shape: height and width.
      num_classes: number of classes, or None without labels.
      published_order: whether the arrays are in the order of the published files, or else in the
        shuffled one that tensorflow-datasets stores.
      digests: SHA-256 of each array, in that order.
      files: the published files of each split: images, and labels where there are any.
    """

    name: str
    version: str
    splits: Mapping[str, int]
    held_out: int
    max_value: int
    image_shape: tuple[int, int]
    num_classes: int | None
    published_order: bool
    digests: Mapping[str, str]
    files: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


# The digests are of the published files' contents: written out as text again, the arrays of
# `binarized_mnist` give the very files whose SHA-256 tensorflow-datasets registers, and those of
# `mnist` are the payloads of its four files (the tests redo both checks).
#
# `mnist` needs the published order: its customary validation set is the end of the training file.
# `binarized_mnist` must not have it: its test file is sorted by class, so that the first thousand
# images would be nearly all zeros, and whoever looks at the head of a split would be misled.
SPECS: dict[str, Spec] = {
    "mnist": Spec(
        name="mnist",
        version="3.0.1",
        splits={"train": 60_000, "test": 10_000},
        held_out=10_000,
        max_value=255,
        image_shape=(28, 28),
        num_classes=10,
        published_order=True,
        digests={
            "train_images": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
            "train_labels": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
            "test_images": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
            "test_labels": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
        },
        files={
            "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
            "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
        },
    ),
    "binarized_mnist": Spec(
        name="binarized_mnist",
        version="1.0.0",
        splits={"train": 50_000, "validation": 10_000, "test": 10_000},
        held_out=0,
        max_value=1,
        image_shape=(28, 28),
        num_classes=None,
        published_order=False,
        digests={
            "train_images": "0804906eb23d6aedb043afb06a0c7d4cc63fd59f4fddcb85c7cd9be9742883e1",
            "validation_images": "d71adae465f76e42877fc65d0862635d893e85ce4a6d98880c011f73ee956937",
            "test_images": "3e41c0f6bd30b15bb9c97b856d9166f8f35808a692a8e5cf4c6086a4f78a9d29",
        },
        files={
            "train": ("binarized_mnist_train.amat",),
            "validation": ("binarized_mnist_valid.amat",),
            "test": ("binarized_mnist_test.amat",),
        },
    ),
}


def digest(array: np.ndarray[Any, Any]) -> str:
    """SHA-256 of an array's bytes in C order, in hexadecimal.

    Example:
      >>> digest(np.array([1, 2], np.uint8))[:8]
      'a12871fe'
    """
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
