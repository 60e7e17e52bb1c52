"""scikit-learn's bundled 8x8 handwritten digits: the set that needs no network and no cache."""

import numpy as np

from experiments.data.datasets import Dataset, Split

_NUM_TRAIN = 1197
_NUM_VALIDATION = 300
_NUM_TEST = 300


def load_digits() -> Dataset:
    """The 1,797 digits of the UCI optical recognition set, gray values 0..16, with labels.

    The set has no official split. Ours is fixed: the images in the order of
    `np.random.RandomState(0).permutation(1797)`, then 1,197 for training, the next 300 for
    validation, the last 300 for test. The permutation matters, since scikit-learn's order groups
    the writers.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.

    Example:
      >>> dataset = load_digits()
      >>> len(dataset.train), len(dataset.validation), len(dataset.test), dataset.image_shape
      (1197, 300, 300, (8, 8))
    """
    # Takes a second to import, which users of the other sets need not wait for.
    from sklearn import datasets as sklearn_datasets

    bunch = sklearn_datasets.load_digits()
    images = bunch.images.astype(np.uint8)
    labels = bunch.target.astype(np.int32)
    # RandomState's stream is frozen; that of Generator may change between releases.
    order = np.random.RandomState(0).permutation(_NUM_TRAIN + _NUM_VALIDATION + _NUM_TEST)
    images, labels = images[order], labels[order]
    bounds = (_NUM_TRAIN, _NUM_TRAIN + _NUM_VALIDATION)
    train, validation, test = (
        Split(*pair)
        for pair in zip(np.split(images, bounds), np.split(labels, bounds), strict=True)
    )
    return Dataset("digits", train, validation, test, max_value=16, num_classes=10)
