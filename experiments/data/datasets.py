"""A dataset: three splits of uint8 images, and the value that stands for 1.0."""

import dataclasses
from typing import Self

import numpy as np
from jaxtyping import Float32, Int32, UInt8


def binarize(images: UInt8[np.ndarray, "..."], max_value: int) -> UInt8[np.ndarray, "..."]:
    """Thresholds gray images at half of full scale: `images * 2 > max_value`, as 0 or 1.

    This static threshold is this project's choice for a binary likelihood on `digits` and `mnist`.
    `binarized_mnist` is another set: it was drawn once at random with the gray values as
    probabilities (Salakhutdinov and Murray, 2008), so bounds on the two are not comparable.

    Args:
      images: gray values, 0..max_value.
      max_value: the value that stands for 1.0.

    Returns:
      0 where the value is at most half of `max_value`, 1 where it is more.

    Raises:
      ValueError: `max_value` is not in 1..255.

    Example:
      >>> binarize(np.array([0, 8, 9, 16], np.uint8), max_value=16)
      array([0, 0, 1, 1], dtype=uint8)
    """
    if not 1 <= max_value <= 255:
        raise ValueError(f"max_value must be in 1..255, got {max_value}")
    return (images > max_value // 2).astype(np.uint8)  # The same test, without overflow in uint8.


@dataclasses.dataclass(frozen=True)
class Split:
    """Images [N, H, W] in uint8 and, where the set has them, labels [N] in int32.

    Raises:
      ValueError: another dtype or rank, or the number of labels differs from the number of images.
    """

    images: UInt8[np.ndarray, "N H W"]
    labels: Int32[np.ndarray, "N"] | None = None

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 3:
            raise ValueError(
                f"images must be uint8 [N, H, W], got {self.images.dtype} {self.images.shape}"
            )
        if self.labels is None:
            return
        if self.labels.dtype != np.int32 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"labels must be int32 [{len(self.images)}], got "
                f"{self.labels.dtype} {self.labels.shape}"
            )

    def __len__(self) -> int:
        return len(self.images)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Train, validation and test splits of one image set.

    Attributes:
      name: the name it is loaded by.
      train, validation, test: the splits.
      max_value: the pixel value that means 1.0: 255 for `mnist`, 16 for `digits`, 1 once binarized.
      num_classes: number of classes, or None for a set without labels.

    Example:
      >>> split = Split(np.array([[[0, 16]], [[16, 16]]], np.uint8))
      >>> dataset = Dataset("tiny", split, split, split, max_value=16)
      >>> dataset.image_shape, dataset.train_mean().tolist()
      ((1, 2), [[0.5, 1.0]])
      >>> dataset.binarized().train.images.tolist()
      [[[0, 1]], [[1, 1]]]
    """

    name: str
    train: Split
    validation: Split
    test: Split
    max_value: int
    num_classes: int | None = None

    def __post_init__(self) -> None:
        for split in (self.train, self.validation, self.test):
            if split.images.shape[1:] != self.image_shape:
                raise ValueError(f"{self.name}: the splits hold images of different shapes")
            if split.images.max(initial=0) > self.max_value:
                raise ValueError(f"{self.name}: a pixel is above max_value = {self.max_value}")

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.train.images.shape[1:]
        return height, width

    def train_mean(self) -> Float32[np.ndarray, "H W"]:
        """The mean image of the training split alone, in 0..1."""
        mean = self.train.images.mean(axis=0, dtype=np.float64) / self.max_value
        return mean.astype(np.float32)

    def binarized(self) -> Self:
        """The same set with pixels 0 or 1 (see `binarize`) and `max_value` 1; labels are kept."""
        if self.max_value == 1:
            return self
        train, validation, test = (
            dataclasses.replace(split, images=binarize(split.images, self.max_value))
            for split in (self.train, self.validation, self.test)
        )
        return dataclasses.replace(self, train=train, validation=validation, test=test, max_value=1)
