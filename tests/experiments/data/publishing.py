"""Small image sets in the real file formats, for the tests of `experiments.data`."""

import dataclasses
import gzip
import hashlib
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import data
from experiments.data import specs, tfds_source

ROOT = Path(__file__).resolve().parents[3]
MNIST_SETS = ("mnist", "binarized_mnist")
FIXES = ("--config.dataset=digits", "TFDS_DATA_DIR")


def make_arrays(name: str, counts: dict[str, int]) -> specs.Arrays:
    """Random images, and labels where the set has them, in the order of publication."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in counts.items():
        high = 1 if name == "binarized_mnist" else 255
        arrays[f"{split}_images"] = rng.integers(0, high + 1, (count, 28, 28), dtype=np.uint8)
        if name == "mnist":
            arrays[f"{split}_labels"] = rng.integers(0, 10, count, dtype=np.uint8)
    return arrays


def idx_gz(array: np.ndarray) -> bytes:
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())


def amat(images: np.ndarray) -> bytes:
    rows = images.reshape(len(images), -1)
    return b"".join(b" ".join(b"%d" % bit for bit in row) + b"\n" for row in rows)


def published_files(name: str, arrays: specs.Arrays) -> dict[str, bytes]:
    """The arrays as the files they are published in."""
    if name == "mnist":
        return {
            "train-images-idx3-ubyte.gz": idx_gz(arrays["train_images"]),
            "train-labels-idx1-ubyte.gz": idx_gz(arrays["train_labels"]),
            "t10k-images-idx3-ubyte.gz": idx_gz(arrays["test_images"]),
            "t10k-labels-idx1-ubyte.gz": idx_gz(arrays["test_labels"]),
        }
    return {
        f"binarized_mnist_{short}.amat": amat(arrays[f"{split}_images"])
        for short, split in (("train", "train"), ("valid", "validation"), ("test", "test"))
    }


def as_stored(arrays: specs.Arrays) -> specs.Arrays:
    """The arrays in the order in which tensorflow-datasets stores them."""
    return {
        name: array[tfds_source.published_order(name.split("_")[0], len(array))]
        for name, array in arrays.items()
    }


class Publisher:
    """A small set whose checksums are registered in place of the real one's.

    Attributes:
      files: what a server has to publish.
      arrays: what `load` has to give back.
      spec: the specification that it has to fulfil.
    """

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
        counts = (
            {"train": 12, "test": 5}
            if name == "mnist"
            else {"train": 9, "validation": 4, "test": 3}
        )
        published = make_arrays(name, counts)
        self.files = published_files(name, published)
        self.arrays = published if name == "mnist" else as_stored(published)
        self.spec = dataclasses.replace(
            specs.SPECS[name],
            splits=counts,
            held_out=4 if name == "mnist" else 0,
            digests={key: specs.digest(array) for key, array in self.arrays.items()},
        )
        builder_cls = tfds_source.make_builder_cls(name)
        registered = {
            f"{address}/{info.filename}": dataclasses.replace(
                info,
                size=type(info.size)(len(self.files[info.filename])),
                checksum=hashlib.sha256(self.files[info.filename]).hexdigest(),
            )
            for info in builder_cls.url_infos.values()
        }
        monkeypatch.setattr(builder_cls, "url_infos", registered)
        monkeypatch.setitem(specs.SPECS, name, self.spec)


def assert_holds(dataset: data.Dataset, publisher: Publisher) -> None:
    """The splits are the publisher's arrays, in order, cut where the specification says."""
    arrays, held_out = publisher.arrays, publisher.spec.held_out
    images = [dataset.train.images, dataset.validation.images]
    if held_out:
        assert len(dataset.validation) == held_out
        np.testing.assert_array_equal(np.concatenate(images), arrays["train_images"])
        labels = np.concatenate([dataset.train.labels, dataset.validation.labels])
        np.testing.assert_array_equal(labels, arrays["train_labels"])
        np.testing.assert_array_equal(dataset.test.labels, arrays["test_labels"])
    else:
        np.testing.assert_array_equal(images[0], arrays["train_images"])
        np.testing.assert_array_equal(images[1], arrays["validation_images"])
        assert dataset.train.labels is None
    np.testing.assert_array_equal(dataset.test.images, arrays["test_images"])


def assert_one_line(message: str, *parts: str) -> None:
    assert "\n" not in message
    for part in parts:
        assert part in message


def run_python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
