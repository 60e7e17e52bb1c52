"""What is known ahead about the two MNIST sets: version, sizes, and the SHA-256 of their arrays."""

from __future__ import annotations

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
      levels: the pixel value that means 1.0.
      image_shape: height and width.
      num_classes: number of classes, or None without labels.
      digests: SHA-256 of each array, in the order of the published files.
    """

    name: str
    version: str
    splits: Mapping[str, int]
    held_out: int
    levels: int
    image_shape: tuple[int, int]
    num_classes: int | None
    digests: Mapping[str, str]


# The digests are of the published files' contents. Each `binarized_mnist` array, written out as
# text again, gives the very file whose SHA-256 tensorflow-datasets registers; those of `mnist` are
# the four files' payloads (the tests redo both checks).
SPECS: dict[str, Spec] = {
    "mnist": Spec(
        name="mnist",
        version="3.0.1",
        splits={"train": 60_000, "test": 10_000},
        held_out=10_000,
        levels=255,
        image_shape=(28, 28),
        num_classes=10,
        digests={
            "train_images": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
            "train_labels": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
            "test_images": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
            "test_labels": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
        },
    ),
    "binarized_mnist": Spec(
        name="binarized_mnist",
        version="1.0.0",
        splits={"train": 50_000, "validation": 10_000, "test": 10_000},
        held_out=0,
        levels=1,
        image_shape=(28, 28),
        num_classes=None,
        digests={
            "train_images": "43490d4d6ac9002727af4426d8748609fdb7e4094fa65ad8d681ea60082a7a5a",
            "validation_images": "069b4f0beb389b776478c3e872b4df71c95ac4be64d7cbe6d32e24ebac8e6d5e",
            "test_images": "ca0294c3b8d984c7a1dc891015a8eea6f37bae59a34e35ea0fc8c47110a8dd86",
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
